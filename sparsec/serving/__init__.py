"""Sessions behind a server: requests run together, within limits, over the Open Inference Protocol."""
