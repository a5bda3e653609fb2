"""Rotation of pairs of features by angles that grow with the position."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.passes.contributed.body import Body


def positions_of(b: Body, given: ir.Value, tokens: ir.Value) -> ir.Value:
    """The position of every token (batch, tokens); a single one is that of the first."""
    if b.rank(given) == 2:  # (batch, tokens)
        return given
    zero, one = (b.put("Squeeze", b.integers(number)) for number in (0, 1))
    return b.put("Add", b.unsqueeze(b.put("Range", zero, tokens, one), 0), given)


def tables(b: Body, cos: ir.Value, sin: ir.Value, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The cosines and sines of every token (batch, 1, tokens, pairs)."""
    first, second = (b.unsqueeze(b.put("Gather", table, positions), 1) for table in (cos, sin))
    return first, second


def rotated(b: Body, x: ir.Value, cos: ir.Value, sin: ir.Value, sizes: tuple[int, int], *,
            interleaved: bool) -> ir.Value:
    """(batch, heads, tokens, depth) with its first features rotated, pairs side by side or half of them apart.

    `sizes` are the number of pairs and the depth.
    """
    rest, (half, depth) = None, sizes
    if depth > 2 * half:
        x, rest = b.split(x, -1, [2 * half, depth - 2 * half])
    if interleaved:
        pairs = b.reshape(x, 0, 0, 0, half, 2)
        a, c = (b.put("Squeeze", part, b.integers(4)) for part in b.split(pairs, 4, [1, 1]))
    else:
        a, c = b.split(x, -1, [half, half])
    first = b.put("Sub", b.put("Mul", a, cos), b.put("Mul", c, sin))
    second = b.put("Add", b.put("Mul", c, cos), b.put("Mul", a, sin))
    if interleaved:
        y = b.reshape(b.put("Concat", b.unsqueeze(first, 4), b.unsqueeze(second, 4), axis=4), 0, 0, 0, 2 * half)
    else:
        y = b.put("Concat", first, second, axis=-1)
    return y if rest is None else b.put("Concat", y, rest, axis=-1)
