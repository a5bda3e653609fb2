"""One pass over the dense model: what its layers and outputs are on the samples."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.errors import PruningError, UsageError
from sparsec.graph.compare import Feeds
from sparsec.oneshot.criteria import CRITERIA, GRADED
from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.distribution.exact import whole_counts
from sparsec.oneshot.effects import Effects
from sparsec.oneshot.gradients.slopes import Slopes
from sparsec.oneshot.gradients.slopes import slopes as gradients_of
from sparsec.oneshot.patterns.pattern import Pattern
from sparsec.oneshot.patterns.unstructured import Unstructured
from sparsec.oneshot.stages import Walk
from sparsec.oneshot.statistics import Measured, Statistics, mean
from sparsec.oneshot.weights import Layer, Left, constants, layers

Progress = Callable[[str, float], None]
OUTPUTS, BUNDLE = 64, 16
"""Outputs of a layer that its sensitivity is found from, of all groups together, and those that lie together."""


@dataclass(frozen=True)
class Weight:
    """A constant with the layers that read it, in order; the first is where it is pruned."""

    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        """That of the first layer, which the weight goes by."""
        return self.layers[0].name

    @property
    def size(self) -> int:
        """Its elements."""
        return int(np.prod(self.layers[0].shape))


@dataclass(frozen=True)
class Dense:
    """A dense model on samples.

    Attributes:
        weights: those to prune, in order of their first use.
        left: layers that are not pruned.
        means: by layer the mean of its inputs.
        later: by weight the statistics of its uses but the first.
        outputs: by output the arrays of every batch.
        sensitivity: by weight the relative error that it brings the outputs at every sparsity that was asked for: that
            of its layer, times what such errors make of the outputs.
        sparsity: by weight what it has of the pattern already, the least that it can be pruned to.
        slopes: by weight its gradients, where the criterion takes them.

    """

    weights: tuple[Weight, ...]
    left: tuple[Left, ...]
    means: Mapping[str, np.ndarray]
    later: Mapping[str, tuple[Statistics, ...]]
    outputs: Mapping[str, list[np.ndarray]]
    sensitivity: Mapping[str, tuple[float, ...]]
    sparsity: Mapping[str, float]
    slopes: Mapping[str, Slopes] = field(default_factory=dict)


def weights(model: onnx.ModelProto, pattern: Pattern, keep: Sequence[str]) -> tuple[list[Weight], list[Left]]:
    """The weights that can have a pattern and match none of the names to keep, and what is left, with the reasons.

    Raises:
        PruningError: no weight is left to prune.
        UsageError: a name to keep is none of a layer.

    """
    found, left = layers(model)
    for each in keep:
        if not any(fnmatch.fnmatch(name, each) for layer in found for name in (layer.name, layer.weight)):
            raise UsageError(f"--keep {each}: no layer and no weight is called so; the layers are "
                             f"{', '.join(layer.name for layer in found)}")
    tensors, by_weight = constants(model.graph), dict[str, list[Layer]]()
    for layer in found:
        innermost = layer.shape[1] if layer.operator == "Conv" else layer.input_count
        if any(fnmatch.fnmatch(name, each) for each in keep for name in (layer.name, layer.weight)):
            left.append(Left(layer.name, "kept as asked"))
        elif reason := pattern.reject(layer.input_count, innermost):
            left.append(Left(layer.name, reason))
        else:
            by_weight.setdefault(layer.weight, []).append(layer)
    for name in [name for name, uses in by_weight.items() if not _read_alike(uses, tuple(tensors[name].dims))]:
        left += [Left(layer.name, f"'{name}' is read the other way by another layer") for layer in by_weight.pop(name)]
    if not by_weight:
        raise PruningError(f"no weight to prune: {left[0].layer}: {left[0].reason}" if left else
                           "no weight to prune: the model has no Conv, Gemm or MatMul with a constant weight")
    for name in by_weight:
        if not np.isfinite(numpy_helper.to_array(tensors[name]).astype(np.float32)).all():
            raise PruningError(f"weight '{name}' holds NaN or infinity")
    return [Weight(tuple(uses)) for uses in by_weight.values()], left


def _read_alike(uses: Sequence[Layer], shape: tuple[int, ...]) -> bool:
    """Whether all layers that read a weight multiply the same matrix, none its transpose."""
    if len(uses) == 1:
        return True
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return all(np.array_equal(uses[0].matrix(numbers), each.matrix(numbers)) for each in uses[1:])


@dataclass(frozen=True)
class Answer:
    """What a weight's layer has on the samples: the mean of its inputs, and the sensitivity of `Dense`."""

    mean: np.ndarray
    errors: tuple[float, ...]


Answers = Callable[[Sequence[str], Sequence[float]], Mapping[str, Answer]]
"""From the names of weights and sparsities to the answers of each, which do not depend on the others'."""


def run(model: onnx.ModelProto, batches: Sequence[Feeds], criterion: str, pattern: Pattern, keep: Sequence[str],
        sparsities: Sequence[float], progress: Progress, answers: Answers | None = None) -> Dense:
    """Run the dense model; at each of `sparsities` every weight is pruned by itself to see what that costs.

    `answers` finds that elsewhere, by `answered`.
    """
    chosen, left = weights(model, pattern, keep)
    by_index = {layer.index: (weight, layer) for weight in chosen for layer in weight.layers}
    means, later = dict[str, np.ndarray](), dict[str, tuple[Statistics, ...]]()
    known = dict(answers([weight.name for weight in chosen], sparsities)) if answers and sparsities else {}
    slopes = slopes_of(model, batches, chosen, criterion, progress)
    walk, measured = Walk.over(model, batches), Measured()
    effects = Effects.of(model, batches) if sparsities and len(known) < len(chosen) else None
    for done, index in enumerate(walk.stops(sorted(by_index))):
        if index not in by_index:
            break
        weight, layer = by_index[index]
        progress("dense model", done / len(by_index))
        values, first = walk.values[layer.input], layer is weight.layers[0]
        if not first:
            found = measured.of(layer, values)
            later[weight.name] = (*later.get(weight.name, ()), found)
            means[layer.name] = found.mean
        elif not sparsities:
            means[layer.name] = mean(layer, values)
        else:
            if weight.name not in known:
                known[weight.name] = _answer(walk, layer, effects, measured, criterion, pattern, sparsities,
                                             slopes.get(weight.name))
            means[layer.name] = known[weight.name].mean
    outputs = {value.name: walk.values[value.name] for value in model.graph.output}
    return Dense(tuple(chosen), tuple(left), means, later, outputs, {name: each.errors for name, each in known.items()},
                 {weight.name: _sparsity(model, weight.layers[0], pattern) for weight in chosen}, slopes)


def _sparsity(model: onnx.ModelProto, layer: Layer, pattern: Pattern) -> float:
    """What a layer's weight has of a pattern already."""
    matrix = layer.matrix(numpy_helper.to_array(constants(model.graph)[layer.weight]))
    return float(np.mean([pattern.sparsity_of(group != 0) for group in matrix]))


def slopes_of(model: onnx.ModelProto, batches: Sequence[Feeds], chosen: Sequence[Weight], criterion: str,
              progress: Progress) -> dict[str, Slopes]:
    """By weight its gradients, where the criterion takes such."""
    if criterion not in GRADED:
        return {}
    progress("gradients", 0.0)
    found = gradients_of(model, batches, [weight.layers for weight in chosen])
    return {weight.name: each for weight, each in zip(chosen, found, strict=True)}


def answered(model: onnx.ModelProto, batches: Sequence[Feeds], criterion: str, pattern: Pattern, keep: Sequence[str],
             sparsities: Sequence[float], names: Collection[str]) -> dict[str, Answer]:
    """The answers of some of the weights, as `run` finds them."""
    chosen, _ = weights(model, pattern, keep)
    wanted = {weight.layers[0].index: weight for weight in chosen if weight.name in names}
    walk, effects, found = Walk.over(model, batches), Effects.of(model, batches), dict[str, Answer]()
    slopes = slopes_of(model, batches, [*wanted.values()], criterion, lambda _what, _share: None)
    measured = Measured()
    for index in walk.stops(sorted(wanted)):
        if index not in wanted:
            break
        weight = wanted[index]
        found[weight.name] = _answer(walk, weight.layers[0], effects, measured, criterion, pattern, sparsities,
                                     slopes.get(weight.name))
    return found


def _answer(walk: Walk, layer: Layer, effects: Effects | None, measured: Measured, criterion: str, pattern: Pattern,
            sparsities: Sequence[float], slopes: Slopes | None = None) -> Answer:
    """That of the layer that the walk stands in front of."""
    found = whole = measured.of(layer, walk.values[layer.input])
    effect = effects.of_layer(walk, layer, found) if effects is not None else 1.0
    matrix = layer.matrix(numpy_helper.to_array(constants(walk.model.graph)[layer.weight]))
    rows = some_rows(matrix.shape[1])
    matrix = matrix[:, rows]
    chosen_groups = some_groups(*matrix.shape[:2])
    matrix, found = matrix[chosen_groups], found.of_groups(chosen_groups)
    moments = found.moments([None] * len(matrix), [slopes.of(int(group), rows) for group in chosen_groups] if slopes
                            else None, rough=True)
    changes = [matrix - pruned(matrix, moments, criterion, pattern, each) for each in sparsities]
    return Answer(whole.mean, tuple(effect * each for each in found.errors(changes, matrix)))


def some_rows(outputs: int) -> np.ndarray:
    """At most `OUTPUTS` of so many outputs, in evenly spaced bundles."""
    if outputs <= OUTPUTS:
        return np.arange(outputs)
    starts = np.linspace(0, outputs - BUNDLE, OUTPUTS // BUNDLE).astype(np.int64) // BUNDLE * BUNDLE
    return np.asarray((starts[:, np.newaxis] + np.arange(BUNDLE)).reshape(-1))


def some_groups(groups: int, outputs: int) -> np.ndarray:
    """Evenly spaced groups with so many outputs each, at most `OUTPUTS` together."""
    return np.linspace(0, groups - 1, min(groups, max(OUTPUTS // outputs, 1))).astype(np.int64)


def pruned(matrix: np.ndarray, moments: Sequence[Moments], criterion: str, pattern: Pattern, sparsity: float,
           live: np.ndarray | None = None) -> np.ndarray:
    """A weight (groups, outputs, inputs) pruned, every group by itself; itself where it is so already.

    Only `live` elements may be other than zero afterwards, those that are so if it is not given.
    """
    live = matrix != 0 if live is None else live
    size, had = matrix[0].size, np.array([pattern.sparsity_of(each) for each in live])
    if sparsity * matrix.size < had.mean() * matrix.size + 0.5 and not matrix[~live].any():
        return matrix
    form = pattern if sparsity else Unstructured()  # which lets all that are live be
    shares = ([sparsity] * len(matrix) if form.fixed is not None  # else in whole weights, of which groups may have few
              else whole_counts(len(matrix), size, sparsity, had * size) / size)
    return np.stack([CRITERIA[criterion](m, replace(h, live=own), form, float(share))
                     for m, h, own, share in zip(matrix, moments, live, shares, strict=True)])
