"""Units that samples never activate, taken away: the same outputs on these samples, and not on any others.

`strip` removes what cannot contribute; these units only did not, here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from sparsec.errors import PruningError
from sparsec.graph import reader
from sparsec.graph.classes import class_outputs
from sparsec.graph.compare import Feeds
from sparsec.oneshot.dense import Progress, Weight, weights
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.prune import compared
from sparsec.oneshot.stages import Walk
from sparsec.oneshot.statistics import measure
from sparsec.oneshot.structured.parts import NONE, parts
from sparsec.oneshot.structured.prune import Smaller, free, separated, stripped, zeroed
from sparsec.oneshot.structured.units import Unit, units
from sparsec.oneshot.weights import constants


def remove_unused(model: onnx.ModelProto, batches: Sequence[Feeds], threshold: float, keep: Sequence[str],
                  progress: Progress) -> Smaller:
    """Remove the units that no sample activates.

    Args:
        model: the model, which stays unchanged.
        batches: the samples.
        threshold: of the root mean square of a layer's inputs; units go whose own is not above it in any layer that
            reads them. 0 takes those that are zero in all samples.
        keep: patterns of layers and weights whose units stay.
        progress: is told what is going on, and the share that is done.

    Raises:
        PruningError: samples activate all units.

    """
    model = separated(model)
    known, left = weights(model, pattern("unstructured"), keep)
    names, tensors = {weight.layers[0].weight for weight in known}, constants(model.graph)
    found = [unit for unit in units(reader.load(model, symbolic=True, as_is=True)) if free(unit, names, tensors)]
    active, outputs = activity(model, batches, known, found, progress)
    alive = ~(active <= threshold)  # nothing is known of units that no layer reads
    families = np.array([unit.family for unit in found], np.int64)
    for family in np.unique(families[~alive]):
        own = np.flatnonzero(families == family)
        if not alive[own].any():  # a layer of no channels is none
            alive[own[int(np.argmax(active[own]))]] = True
    if alive.all():
        raise PruningError(f"samples activate all of {len(found)} units; give a higher --threshold, or --pattern units")
    small, report = stripped(zeroed(model, found, alive))
    classes = class_outputs(model)
    walk = Walk.over(small, batches)
    for _ in walk.stops([]):
        now = {name: walk.values[name] for name in outputs}
    return Smaller(small, len(found), int((~alive).sum()), report,
                   tuple(compared(name, now[name], arrays, classes) for name, arrays in outputs.items()), tuple(left))


def activity(model: onnx.ModelProto, batches: Sequence[Feeds], known: Sequence[Weight], found: Sequence[Unit],
             progress: Progress) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    """By unit the largest share of a layer's root mean square input, NaN where none reads it; and the outputs."""
    layers = sorted((layer for weight in known for layer in weight.layers), key=lambda layer: layer.index)
    pieces = {part.layer.index: part for part in parts(model, layers, found)}
    active, walk = np.full(len(found), np.nan), Walk.over(model, batches)
    for done, index in enumerate(walk.stops(sorted(pieces))):
        if index in pieces:
            progress("looking at units", done / len(pieces))
            part = pieces[index]
            squares = measure(part.layer, walk.values[part.layer.input]).hessian.diagonal(axis1=1, axis2=2)
            shares = np.sqrt(squares / max(float(squares.mean()), 1e-30))
            read = part.columns != NONE
            np.fmax.at(active, part.columns[read], shares[read])
    return active, {value.name: walk.values[value.name] for value in model.graph.output}
