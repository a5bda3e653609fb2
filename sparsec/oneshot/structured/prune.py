"""Removing units: they become zero, the layers that follow make up for them, and `strip` takes them away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from scipy.linalg import lapack

from sparsec.errors import PruningError
from sparsec.graph import interface, reader
from sparsec.graph.classes import class_outputs
from sparsec.graph.compare import Feeds
from sparsec.oneshot import bias
from sparsec.oneshot.dense import Progress, Weight, weights
from sparsec.oneshot.inputs import columns, positions
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.prune import Output, compared
from sparsec.oneshot.stages import Walk
from sparsec.oneshot.statistics import MOST_POSITIONS, measure
from sparsec.oneshot.structured.parts import Part, parts
from sparsec.oneshot.structured.rank import Work, chosen, losses
from sparsec.oneshot.structured.units import Unit, units
from sparsec.oneshot.weights import FLOATS, Left, constants, write
from sparsec.passes.strip import strip
from sparsec.passes.strip.report import StripReport

NEAR, FAR, ROUNDS = 0.005, 1.1, 6
"""How far from the share that is to stay nothing better is looked for, and how many times it counts as missed."""
RIDGE = 0.01
"""Added to the diagonal of second moments, as a share of its mean; it draws weights to what they were."""


@dataclass(frozen=True)
class Smaller:
    """A model with fewer units.

    Attributes:
        model: the stripped model.
        units, removed: how many can be removed, and are.
        report: of `strip`: every layer before and after, and all FLOPs.
        outputs: how the outputs compare with the dense model's on the samples.
        left: layers without units to remove, and why.

    """

    model: onnx.ModelProto
    units: int
    removed: int
    report: StripReport
    outputs: tuple[Output, ...]
    left: tuple[Left, ...]


def remove_units(model: onnx.ModelProto, batches: Sequence[Feeds], share: float, keep: Sequence[str],
                 progress: Progress) -> Smaller:
    """Remove units until the model needs a share of its FLOPs.

    Args:
        model: the dense model, which stays unchanged.
        batches: the samples.
        share: of the FLOPs, which stays.
        keep: patterns of layers and weights whose units stay.
        progress: is told what is going on, and the share that is done.

    Raises:
        PruningError: no unit can go, or too few.

    """
    model = separated(model)
    known, left = weights(model, pattern("unstructured"), keep)
    names, tensors = {weight.layers[0].weight for weight in known}, constants(model.graph)
    found = [unit for unit in units(reader.load(model, symbolic=True, as_is=True)) if free(unit, names, tensors)]
    if not found:
        raise PruningError("no unit can go: every channel is tied to an input, an output, a normalisation or an "
                           "operator that the analysis does not know; `sparsec strip` names them")
    works, lost, outputs = _ranked(model, batches, known, found, progress)
    progress("choosing units", 0.0)
    reached, alive = _nearest(model, found, works, lost, share)
    if reached > share * FAR + NEAR:
        raise PruningError(f"{100 * (1 - share):.0f} % of the FLOPs cannot go: the most that units make up is "
                           f"{100 * (1 - reached):.0f} %; "
                           "give a lower --sparsity")
    result = zeroed(model, found, alive)
    now = _reconstruct(model, result, batches, [work.part for work in works], alive, progress)
    small, report = stripped(result)
    classes = class_outputs(model)
    return Smaller(small, len(found), int((~alive).sum()), report,
                   tuple(compared(name, now[name], arrays, classes) for name, arrays in outputs.items()), tuple(left))


def _nearest(model: onnx.ModelProto, found: Sequence[Unit], works: Sequence[Work], lost: np.ndarray, share: float,
             ) -> tuple[float, np.ndarray]:
    """The share of all FLOPs that comes nearest to the one asked for, products of activations included, and its units.

    What layers save is known beforehand, the rest when `strip` has been there.
    """
    tries, aim = list[tuple[float, np.ndarray]](), share
    for _ in range(ROUNDS):
        alive = chosen(found, works, lost, aim)
        total = stripped(zeroed(model, found, alive))[1].total
        tries.append((total.after.flops / max(total.before.flops, 1), alive))
        if abs(tries[-1][0] - share) <= NEAR:
            break
        aim = min(max(aim + share - tries[-1][0], 0.0), 1.0)
    return min(tries, key=lambda each: abs(each[0] - share))


def separated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every reader of a vector has its own: units that share a bias have nothing else in common."""
    result, readers = onnx.ModelProto(), dict[str, int]()
    result.CopyFrom(model)
    vectors = {tensor.name: tensor for tensor in result.graph.initializer if len(tensor.dims) == 1}
    for node in result.graph.node:
        for place, name in enumerate(node.input):
            if name in vectors and vectors[name].data_type in FLOATS:
                readers[name] = readers.get(name, 0) + 1
                if readers[name] > 1:
                    fresh = result.graph.initializer.add()
                    fresh.CopyFrom(vectors[name])
                    fresh.name = node.input[place] = f"{name}.{readers[name]}"
    return result


def free(unit: Unit, known: set[str], tensors: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether all matrices that a unit is part of may be pruned."""
    names = {name for name, _ in unit.slabs}
    if not names <= set(tensors):
        return False
    matrices = {name for name in names if sum(size > 1 for size in tensors[name].dims) > 1}
    return bool(matrices) and matrices <= known


def _ranked(model: onnx.ModelProto, batches: Sequence[Feeds], known: Sequence[Weight], found: Sequence[Unit],
            progress: Progress) -> tuple[list[Work], np.ndarray, Mapping[str, list[np.ndarray]]]:
    """The layers, what removing each unit loses in all of them, and the outputs of the dense model."""
    layers = sorted((layer for weight in known for layer in weight.layers), key=lambda layer: layer.index)
    pieces = {part.layer.index: part for part in parts(model, layers, found)}
    works, lost, tensors = list[Work](), np.zeros(len(found)), constants(model.graph)
    walk = Walk.over(model, batches)
    for index in walk.stops(sorted(pieces)):
        if index in pieces:
            progress("ranking units", len(works) / len(pieces))
            part, values = pieces[index], walk.values[pieces[index].layer.input]
            works.append(Work(part, positions(part.layer, values[0][:1])))
            if (part.columns >= 0).any():
                matrix = part.layer.matrix(numpy_helper.to_array(tensors[part.layer.weight]))
                moments = measure(part.layer, values).moments([None] * part.layer.groups)
                lost += losses(part, matrix, moments, len(found))
    return works, lost, {value.name: walk.values[value.name] for value in model.graph.output}


def zeroed(model: onnx.ModelProto, found: Sequence[Unit], alive: np.ndarray) -> onnx.ModelProto:
    """The model with all constants of the other units zero."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    gone: dict[tuple[str, int], list[np.ndarray]] = {}
    for number in np.flatnonzero(~alive):
        for place, indices in found[int(number)].slabs.items():
            gone.setdefault(place, []).append(indices)
    tensors = constants(result.graph)
    for (name, axis), lists in gone.items():
        array = numpy_helper.to_array(tensors[name]).copy()
        np.moveaxis(array, axis, 0)[np.concatenate(lists)] = 0
        write(tensors[name], array)
    return result


def stripped(model: onnx.ModelProto) -> tuple[onnx.ModelProto, StripReport]:
    """The model as `strip` leaves it, with its own interface, and what that did."""
    graph = reader.load(model, symbolic=True, as_is=True)
    report = strip(graph)
    interface.restore(graph)
    return ir.to_proto(graph), report


def _reconstruct(dense: onnx.ModelProto, result: onnx.ModelProto, batches: Sequence[Feeds], pieces: Sequence[Part],
                 alive: np.ndarray, progress: Progress) -> Mapping[str, list[np.ndarray]]:
    """Refit the rows and columns that stay, in place, layer by layer; returns the outputs.

    Each layer gets the inputs that it has by then, and comes as near to its outputs in the dense model as it can.
    """
    before, after = Walk.over(dense, batches), Walk.over(result, batches)
    by_index = {part.layer.index: part for part in pieces}
    indices = sorted(by_index)
    for done, (index, _) in enumerate(zip(before.stops(indices), after.stops(indices), strict=True)):
        if index in by_index:
            progress("reconstructing", done / len(indices))
            part = by_index[index]
            shared = sum(each.layer.weight == part.layer.weight for each in pieces) > 1
            if not shared and part.layer.groups == 1:
                _refit(dense, result, part, alive, [walk.values[part.layer.input] for walk in (before, after)])
    return {value.name: after.values[value.name] for value in result.graph.output}


def _refit(dense: onnx.ModelProto, result: onnx.ModelProto, part: Part, alive: np.ndarray,
           values: Sequence[Sequence[np.ndarray]]) -> None:
    """The least squares of one layer of one group, and its bias.

    Raises PruningError where its inputs overflow.
    """
    layer = part.layer
    most = max(MOST_POSITIONS // len(values[0]), 8)
    x, now = (np.concatenate([columns(layer, value, most)[0] for value in side]) for side in values)
    rows, kept = (side[0] for side in part.left(alive))
    tensor = constants(result.graph)[layer.weight]
    stored = numpy_helper.to_array(tensor)
    own = layer.matrix(numpy_helper.to_array(constants(dense.graph)[layer.weight]))[0]
    mean, now_mean = x.mean(0, dtype=np.float64), now.mean(0, dtype=np.float64)
    found = bias.find(result, layer)
    if found:  # the means are the bias's to correct
        x, now = x - mean.astype(np.float32), now - now_mean.astype(np.float32)
    seen = now[:, kept]
    squares = (seen.T @ seen).astype(np.float64) / len(seen)
    damping = RIDGE * max(float(squares.diagonal().mean()), 1e-30)
    wanted = (seen.T @ (x @ own.T)).astype(np.float64) / len(seen) + damping * own[:, kept].T
    squares[np.diag_indices_from(squares)] += damping
    _, solution, failed = lapack.dposv(squares, wanted, lower=1)
    if failed:
        raise PruningError(f"layer '{layer.name}' cannot be fitted: its inputs overflow; leave out samples with very "
                           "large values, or give it to --keep")
    matrix = np.zeros_like(own)
    matrix[:, kept] = np.where(rows[:, np.newaxis], solution.T, 0)
    write(tensor, layer.stored(matrix[np.newaxis], stored.dtype))
    if found:
        bias.shift(found, np.where(rows, own @ mean - matrix @ now_mean, 0))
