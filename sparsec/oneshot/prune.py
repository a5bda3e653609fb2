"""From a dense ONNX model and samples to a pruned one, layer by layer with the inputs of the already pruned network."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.errors import UsageError
from sparsec.graph.classes import class_outputs
from sparsec.graph.compare import Feeds, same_class
from sparsec.oneshot import bias
from sparsec.oneshot.criteria import MOVING
from sparsec.oneshot.dense import Dense, Progress, Weight, pruned
from sparsec.oneshot.finished import Finished
from sparsec.oneshot.matching import matched
from sparsec.oneshot.patterns.pattern import Pattern
from sparsec.oneshot.stages import Walk
from sparsec.oneshot.statistics import SMALLEST, Measured, Statistics, mean, merged
from sparsec.oneshot.weights import Layer, constants, write


@dataclass(frozen=True)
class PrunedLayer:
    """A layer of a pruned model.

    Attributes:
        layer, operator: the node's.
        weights, nonzeros: elements of its weight, and those that are not zero.
        error: root mean square of what pruning changes in its outputs, given the inputs that it has in the pruned
            network, relative to the outputs'.
        shared: the other layers that read the weight.

    """

    layer: str
    operator: str
    weights: int
    nonzeros: int
    error: float
    shared: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """An output on the samples: its error's root mean square over its own; of classes the share of rows that agree."""

    output: str
    error: float
    same_class: float | None


@dataclass(frozen=True)
class Pruned:
    """A pruned model: the layers in order, and how its outputs compare with the dense model's on the samples."""

    model: onnx.ModelProto
    layers: tuple[PrunedLayer, ...]
    outputs: tuple[Output, ...]

    @property
    def error(self) -> float:
        """The largest error of an output."""
        return max((output.error for output in self.outputs), default=0.0)

    @property
    def sparsity(self) -> float:
        """The share of zeros in the weights that can be pruned."""
        return 1 - sum(each.nonzeros for each in self.layers) / sum(each.weights for each in self.layers)


def prune(model: onnx.ModelProto, batches: Sequence[Feeds], dense: Dense, sparsities: Mapping[str, float],
          criterion: str, pattern: Pattern, progress: Progress, finished: Finished | None = None) -> Pruned:
    """Prune every weight to its own sparsity.

    Args:
        model: the dense model, which stays unchanged.
        batches: the samples.
        dense: the dense model on the same samples.
        sparsities: by the names of `dense.weights`.
        criterion: which weights go.
        pattern: where zeros may lie.
        progress: is told what is going on, and the share that is done.
        finished: weights that an earlier run has pruned; those of this one are added.

    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    uses = {layer.index: (weight, layer) for weight in dense.weights for layer in weight.layers}
    walk, measured, found, stops = Walk.over(result, batches), Measured(), list[PrunedLayer](), sorted(uses)
    touched = False
    beside = Walk.over(model, batches) if criterion in MOVING else None
    for index, _ in zip(walk.stops(stops), beside.stops(stops) if beside else itertools.repeat(0), strict=False):
        if index not in uses:
            break
        weight, layer = uses[index]
        progress("pruning", len(found) / len(dense.weights))
        means = None
        if layer is weight.layers[0]:
            apply = functools.partial(pruned, criterion=criterion, pattern=pattern, sparsity=sparsities[weight.name])
            target = beside.values[layer.input] if beside and _is_free(weight) else None
            own = measured.of(layer, walk.values[layer.input])
            means = own.mean
            found.append(_prune(result, walk, own, target, dense, weight, apply, finished))
        touched = touched or constants(result.graph)[layer.weight] != constants(model.graph)[layer.weight]
        if touched:  # a file that is sparse enough stays as it is
            now = mean(layer, walk.values[layer.input]) if means is None else means
            _correct(model, result, layer, dense.means[layer.name], now)
    classes = class_outputs(model)
    outputs = tuple(compared(name, walk.values[name], arrays, classes) for name, arrays in dense.outputs.items())
    return Pruned(result, tuple(found), outputs)


def _is_free(weight: Weight) -> bool:
    """Whether a weight may have any values: one layer alone reads it, and it is no codes."""
    return len(weight.layers) == 1 and weight.layers[0].codes is None


def _prune(result: onnx.ModelProto, walk: Walk, own: Statistics, target: Sequence[np.ndarray] | None, dense: Dense,
           weight: Weight, apply: Callable[..., np.ndarray], finished: Finished | None,
           ) -> PrunedLayer:
    """Prune one weight in place; with the inputs that the dense layer gets, so that its outputs come near to these."""
    layer = weight.layers[0]
    tensor = constants(result.graph)[layer.weight]
    stored = numpy_helper.to_array(tensor)
    before = matrix = layer.matrix(stored)
    if target is not None:
        matrix = matched(matrix, layer, target, walk.values[layer.input], own)
    changed = finished.get(weight.name, matrix.shape) if finished else None
    if changed is None:
        slopes = dense.slopes.get(weight.name)
        moments = merged([own, *dense.later.get(weight.name, ())]).moments(
            layer.grids(stored.shape), [slopes.of(group) for group in range(layer.groups)] if slopes else None)
        changed = apply(matrix, moments, live=before != 0)
        if finished:
            finished.put(weight.name, changed)
    if changed is not before:
        kept = layer.stored(changed, stored.dtype)
        changed = layer.matrix(kept)  # as the file's type holds it
        write(tensor, kept)
    return PrunedLayer(layer.name, layer.operator, matrix.size, int(np.count_nonzero(changed)),
                       own.error(changed - matrix, matrix), tuple(each.name for each in weight.layers[1:]))


def _correct(model: onnx.ModelProto, result: onnx.ModelProto, layer: Layer, dense: np.ndarray, now: np.ndarray,
             ) -> None:
    """Give the outputs of a layer the mean that they have in the dense model, where it has a bias of its own."""
    if found := bias.find(result, layer):
        means = [np.einsum("goi,gi->go", layer.matrix(numpy_helper.to_array(constants(each.graph)[layer.weight])),
                           inputs).reshape(-1) for each, inputs in ((model, dense), (result, now))]
        bias.shift(found, means[0] - means[1])


def unpruned(model: onnx.ModelProto, dense: Dense) -> Pruned:
    """The model as it is, of which nothing goes."""
    tensors = constants(model.graph)
    firsts = [(weight.layers[0], weight.layers[1:]) for weight in dense.weights]
    matrices = [layer.matrix(numpy_helper.to_array(tensors[layer.weight])) for layer, _ in firsts]
    return Pruned(model, tuple(
        PrunedLayer(layer.name, layer.operator, matrix.size, int(np.count_nonzero(matrix)), 0.0,
                    tuple(each.name for each in others))
        for (layer, others), matrix in zip(firsts, matrices, strict=True)),
        tuple(compared(name, arrays, arrays, class_outputs(model)) for name, arrays in dense.outputs.items()))


def compared(name: str, arrays: Sequence[np.ndarray], expected: Sequence[np.ndarray],
             classes: frozenset[str]) -> Output:
    """How an output on all batches compares with what it was."""
    squares = np.zeros(2)
    for a, b in zip(arrays, expected, strict=True):
        exact = b.astype(np.float64)
        squares += np.square(a - exact).sum(), np.square(exact).sum()
    joined = [np.concatenate(each) if each[0].ndim == 2 else np.zeros(0) for each in (arrays, expected)]
    return Output(name, float(np.sqrt(squares[0] / max(squares[1], SMALLEST))),
                  same_class(*joined) if name in classes else None)


def check_sparsity(sparsity: float) -> None:
    """Raise UsageError for a sparsity that is none."""
    if not 0 <= sparsity < 1:
        raise UsageError(f"--sparsity {sparsity:g} is out of range; give a share of at least 0 and below 1, such "
                         "as 0.9")
