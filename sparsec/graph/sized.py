"""Operators that graphs with run-time sizes have between compiled stages, where sessions run them."""

SIZED_DOMAIN = "sparsec.sized"
APPEND = "Append"
"""(past (batch, heads, past, depth), new (batch, heads, tokens, depth), start (batch) or (1)) -> (batch, heads, past +
tokens, depth): every row's first `start` tokens of the past, then the new ones, then zeros."""
