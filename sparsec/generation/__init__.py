"""Text from decoders with caches: sampling, the loop, and words from tokens."""
