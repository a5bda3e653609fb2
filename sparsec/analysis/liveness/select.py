"""Operators that pick slabs along axes: Slice, Split, Pad, Tile and Gather with a constant vector of indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.analysis.liveness.edit import replace_input
from sparsec.analysis.liveness.facts import Array, Dims, Known, Mask, compact, dims, spread, where_known
from sparsec.analysis.liveness.node import constant_of, is_computed, name, parameter
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Cut, Relation, freeze, nonempty, select, tie
from sparsec.graph.nodes import operand

Index = NDArray[np.int64]
Picks = Mapping[int, Index]  # by axis, the input slab of every output slab; -1 is padding
FILL = -1


def _shape(node: ir.Node) -> Dims:
    return dims(operand(node, 0))


def _list(values: object) -> list[int]:
    return [int(v) for v in values] if isinstance(values, Sequence) else []


def slice_picks(node: ir.Node) -> list[Picks]:
    """Slice, with its parameters as attributes (opset 9) or inputs."""
    shape = _shape(node)
    starts, ends = _list(parameter(node, "starts", 1)), _list(parameter(node, "ends", 2))
    axes = _list(parameter(node, "axes", 3)) or list(range(len(starts)))
    steps = _list(parameter(node, "steps", 4)) or [1] * len(starts)
    return [{axis % len(shape): np.arange(shape[axis] or 0)[start:end:step]
             for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)}]


def split_picks(node: ir.Node) -> list[Picks]:
    """Split: consecutive ranges, as long as the outputs."""
    axis = int(node.attributes.get_int("axis", 0)) % len(_shape(node))
    bounds = np.cumsum([0, *((dims(out)[axis] or 0) for out in node.outputs)])
    return [{axis: np.arange(bounds[i], bounds[i + 1])} for i in range(len(node.outputs))]


def pad_picks(node: ir.Node) -> list[Picks]:
    """Pad: FILL, or the input positions that the mode repeats; negative padding crops."""
    shape = _shape(node)
    pads = np.array(_list(parameter(node, "pads", 1))).reshape(2, -1)
    axes = [axis % len(shape) for axis in _list(parameter(node, "axes", 3))] or range(len(shape))
    mode = node.attributes.get_string("mode", "constant")
    result = {}
    for axis, before, after in zip(axes, *pads.tolist(), strict=True):
        if shape[axis] is None and (before or after):
            result[axis] = np.arange(0)  # which `reject` refuses
        elif before or after:
            inside = np.arange(max(-before, 0), (shape[axis] or 0) - max(-after, 0))
            width = (max(before, 0), max(after, 0))
            filled = np.pad(inside, width, constant_values=FILL) if mode == "constant" else np.pad(inside, width, mode)  # type: ignore[call-overload]  # ONNX's modes are numpy's
            result[axis] = filled
    return [result]


def tile_picks(node: ir.Node) -> list[Picks]:
    """Tile: the input over and over."""
    shape, target = _shape(node), dims(node.outputs[0])
    return [{axis: np.arange(target[axis] or 0) % (shape[axis] or 1)
             for axis in range(len(shape)) if shape[axis] != target[axis]}]


def gather_picks(node: ir.Node) -> list[Picks]:
    """Gather with a constant vector of indices."""
    axis = int(node.attributes.get_int("axis", 0)) % len(_shape(node))
    indices = constant_of(node.inputs[1])
    assert indices is not None
    return [{axis: indices.astype(np.int64) % (_shape(node)[axis] or 1)}]


Picker = Callable[[ir.Node], list[Picks]]
PICKS: dict[str, Picker] = {"Slice": slice_picks, "Split": split_picks, "Pad": pad_picks, "Tile": tile_picks,
                            "Gather": gather_picks}


def picked(fact: Array, picks: Picks, shape: Dims, fill: Any = 0) -> Array:
    """The fact of the output; `fill` where it is padding."""
    for axis, index in picks.items():
        if fact.shape[axis] > 1 or (index == FILL).any():
            fact = spread(fact, [axis], shape).take(index, axis)
            outside = np.expand_dims(index == FILL, tuple(i for i in range(fact.ndim) if i != axis))
            fact = np.where(outside, fill, fact).astype(fact.dtype)
    return fact


def _fill(node: ir.Node) -> Any:
    value = parameter(node, "value", 2) if node.op_type == "Pad" else None
    return np.ravel(value)[0] if value else 0


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """The picked elements' facts; padding is known."""
    x = fact(inputs, 0)
    shape, fill = _shape(node), _fill(node)
    return [where_known(picked(x.mask, picks, shape, fill=True), picked(x.value, picks, shape, fill))
            for picks in PICKS[node.op_type](node)]


def backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Needed where a copy is."""
    result = np.zeros((1,) * len(_shape(node)), bool)
    for mask, picks in zip(needed, PICKS[node.op_type](node), strict=True):
        result = result | unpicked(mask, picks, _shape(node))
    return [compact(result), *(np.ones(1, bool) for _ in node.inputs[1:])]


def unpicked(mask: Mask, picks: Picks, shape: Dims) -> Mask:
    """Input elements of which a copy is in the mask."""
    for axis, index in picks.items():
        rows = np.moveaxis(spread(mask, [axis], (len(index),) * mask.ndim), axis, 0)
        found = np.zeros((shape[axis] or 0, *rows.shape[1:]), bool)
        np.logical_or.at(found, index[index != FILL], rows[index != FILL])
        mask = np.moveaxis(found, 0, axis)
    return mask


def couple(node: ir.Node) -> Iterator[Relation]:
    """Axes without picks pass; picked slabs go with their copies where the pick can still be written afterwards."""
    x, shape = operand(node, 0), _shape(node)
    for out, picks in zip(node.outputs, PICKS[node.op_type](node), strict=True):
        for axis in range(len(shape)):
            index = picks.get(axis)
            if index is None:
                yield from tie((x, axis), (out, axis))
            elif _writable(node, index):
                yield from select((x, axis), (out, axis), index)
                yield from nonempty((out, axis), [(x, axis)], f"the last slab of an output of {name(node)}")
            else:
                yield from freeze([(x, axis), (out, axis)], f"{name(node)} repeats, pads or skips along the axis")


def _writable(node: ir.Node, index: Index) -> bool:
    if node.op_type in ("Pad", "Tile"):
        return False
    return node.op_type == "Gather" or bool((np.diff(index) == 1).all())


def rewrite(node: ir.Node, cut: Cut) -> None:
    """New bounds, sizes or indices for what is left of the input."""
    lost = cut.get(operand(node, 0), {})
    picks = PICKS[node.op_type](node)
    touched = {axis: kept for axis, kept in lost.items() if axis in picks[0]}
    if not touched:
        return
    if node.op_type == "Split":
        ((axis, _),) = touched.items()
        lengths = [int(cut[out][axis].sum()) if axis in cut.get(out, {}) else dims(out)[axis] or 0
                   for out in node.outputs]
        node.attributes.pop("num_outputs", None)
        _set_parameter(node, "split", 1, lengths)
    elif node.op_type == "Gather":
        ((axis, kept),) = touched.items()
        index = picks[0][axis]
        replace_input(node, 1, (np.cumsum(kept) - 1)[index[kept[index]]])
    else:
        axes = sorted(picks[0])
        ranges = [_range_after(picks[0][axis], lost.get(axis)) for axis in axes]
        for position, (parameter_name, values) in enumerate(
                {"starts": [a for a, _ in ranges], "ends": [b for _, b in ranges], "axes": axes}.items(), start=1):
            _set_parameter(node, parameter_name, position, values)


def _range_after(index: Index, kept: Mask | None) -> tuple[int, int]:
    """Where a consecutive range of slabs starts and ends once only `kept` are left."""
    first, last = int(index[0]), int(index[-1]) + 1
    return (first, last) if kept is None else (int(kept[:first].sum()), int(kept[:last].sum()))


def _set_parameter(node: ir.Node, parameter_name: str, index: int, values: list[int]) -> None:
    if parameter_name in node.attributes:
        node.attributes[parameter_name] = ir.AttrInt64s(parameter_name, values)
    else:
        replace_input(node, index, np.array(values, np.int64))


def reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """What is picked must not be computed, and along static axes."""
    if is_computed(node, *range(1, len(node.inputs))):
        return "its parameters are computed"
    symbolic = [axis for picks in PICKS[node.op_type](node) for axis in picks if _shape(node)[axis] is None]
    return "it picks along a symbolic dimension" if symbolic else None


SELECT = Rule(forward, backward, couple, rewrite, reject)
RULES = dict.fromkeys(("Pad", "Slice", "Split", "Tile"), SELECT)
