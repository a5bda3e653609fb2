"""Sizes that an exporter has written into a file: what a symbol must be for a Reshape to have as many elements."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.analysis.symbols.size import Size, product


def fixed_by_file(graph: ir.Graph, symbols: Symbols) -> dict[str, int]:
    """By symbol the size that it must have for the graph's Reshapes to be possible; the first where these disagree."""
    found: dict[str, int] = {}
    for node in graph:
        if node.op_type != "Reshape" or node.domain:
            continue
        own, given = symbols.shape(node.inputs[0]), symbols.integers(node.inputs[1])
        if own is None or given is None or any(size.number in (0, -1) or not size.known for size in (*own, *given)):
            continue
        if (needed := _needed(product(own), product(given))) is not None:
            found.setdefault(*needed)
    return found


def _needed(own: Size, given: Size) -> tuple[str, int] | None:
    """The symbol that makes two products equal, and its size; None where none alone does, or they are equal anyway."""
    if len(own.terms) != 1 or len(given.terms) != 1 or own == given:
        return None
    ((names, factor),), ((others, number),) = own.terms, given.terms
    left = list(names)
    for name in others:
        if name not in left:
            return None
        left.remove(name)
    if len(left) != 1 or number % factor:
        return None
    return left[0], number // factor
