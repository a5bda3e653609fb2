"""Rules for operators that pick, repeat and pad elements, as those of `shapes`."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.graph.nodes import optional


def _top(symbols: Symbols, node: ir.Node) -> Shape | None:
    """The shapes of both outputs; the first is the result."""
    shape, count = symbols.shape(node.inputs[0]), symbols.integers(node.inputs[1])
    if not shape:
        return None
    axis = node.attributes.get_int("axis", -1) % len(shape)
    found = *shape[:axis], count[0] if count else symbols.opaque(), *shape[axis + 1:]
    symbols.shapes.update(dict.fromkeys(node.outputs, found))
    return found


def _place_of_largest(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    if not shape:
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    kept = (Size.of(1),) if node.attributes.get_int("keepdims", 1) else ()
    return *shape[:axis], *kept, *shape[axis + 1:]


def _tiled(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape, repeats = symbols.shape(node.inputs[0]), symbols.integers(node.inputs[1])
    if shape is None or repeats is None or len(shape) != len(repeats):
        return None
    return tuple(size * times for size, times in zip(shape, repeats, strict=True))


def _padded(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape, pads = symbols.shape(node.inputs[0]), symbols.integers(node.inputs[1])
    given = symbols.integers(optional(node, 3))
    if shape is None or pads is None or (given is None and optional(node, 3) is not None):
        return None
    axes = range(len(shape)) if given is None else [size.number for size in given]
    dims = list(shape)
    for place, axis in enumerate(axes):
        if axis is None or len(pads) != 2 * len(axes):
            return None
        dims[axis] = dims[axis] + pads[place] + pads[place + len(axes)]
    return tuple(dims)


def _one_hot(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape, depth = symbols.shape(node.inputs[0]), symbols.integers(node.inputs[1])
    if shape is None or not depth:
        return None
    axis = node.attributes.get_int("axis", -1) % (len(shape) + 1)
    return *shape[:axis], depth[0], *shape[axis:]


def _gather_nd(symbols: Symbols, node: ir.Node) -> Shape | None:
    table, indices = (symbols.shape(value) for value in node.inputs)
    if table is None or not indices or indices[-1].number is None:
        return None
    return *indices[:-1], *table[node.attributes.get_int("batch_dims", 0) + indices[-1].number:]


def _depth_to_space(symbols: Symbols, node: ir.Node) -> Shape | None:
    image, block = symbols.shape(node.inputs[0]), node.attributes.get_int("blocksize", 1)
    channels = None if image is None else image[1].divided(Size.of(block * block))
    if image is None or channels is None:
        return None
    return image[0], channels, *(size * Size.of(block) for size in image[2:])


def _space_to_depth(symbols: Symbols, node: ir.Node) -> Shape | None:
    image, block = symbols.shape(node.inputs[0]), node.attributes.get_int("blocksize", 1)
    if image is None:
        return None
    return image[0], image[1] * Size.of(block * block), *(symbols.quotient(size, block) for size in image[2:])


def _einsum(symbols: Symbols, node: ir.Node) -> Shape | None:
    """Every letter of the result has the size that it has in all operands."""
    terms, arrow, result = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    shapes, letters = [symbols.shape(value) for value in node.inputs], terms.split(",")
    if not arrow or "." in terms or any(shape is None or len(shape) != len(own)
                                        for shape, own in zip(shapes, letters, strict=True)):
        return None
    sizes: dict[str, Size] = {}
    for shape, own in zip(shapes, letters, strict=True):
        for letter, size in zip(own, shape or (), strict=True):
            before = sizes.get(letter, Size.of(1))
            if before.number == 1 or size == before:  # operands of size 1 are repeated
                sizes[letter] = size
            elif size.number != 1:
                sizes[letter] = symbols.opaque()
    return tuple(sizes[letter] for letter in result)


SHAPES: dict[str, Callable[[Symbols, ir.Node], Shape | None]] = {
    "TopK": _top, **dict.fromkeys(("ArgMax", "ArgMin"), _place_of_largest), "Tile": _tiled, "Pad": _padded,
    "OneHot": _one_hot, "GatherND": _gather_nd, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
    "Einsum": _einsum}
"""The shape of an operator's first output."""
