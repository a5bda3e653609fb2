"""Structured pruning: whole units of a network, with everything that has to go with them."""
