"""Whole blocks taken away: what a residual connection adds to, where that matters least.

Of y = x + f(x), f goes, and x takes the place of y: an attention, a feed-forward part, the body of a residual block.
What that changes, ||y - x||^2 over ||y||^2, is what blocks are ranked by, for the products they save (after the block
influence of Men et al. 2024, ShortGPT, which takes the angle between x and y).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sparsec.errors import PruningError
from sparsec.graph.classes import class_outputs
from sparsec.graph.compare import Feeds
from sparsec.oneshot.dense import Progress
from sparsec.oneshot.inputs import positions
from sparsec.oneshot.prune import Output, compared
from sparsec.oneshot.stages import Walk, reads
from sparsec.oneshot.statistics import SMALLEST
from sparsec.oneshot.weights import Layer, layers


@dataclass(frozen=True)
class Branch:
    """A residual connection: the Add's name, what goes past the branch and what comes out of both.

    Attributes:
        change: the squares of what the branch adds over those of the sum.
        flops: of its layers, two for each weight and position of one sample.

    """

    name: str
    past: str
    sum: str
    change: float
    flops: float


@dataclass(frozen=True)
class Shallower:
    """A model with fewer blocks: those that went, the FLOPs of the layers before and after, and the outputs."""

    model: onnx.ModelProto
    removed: tuple[Branch, ...]
    branches: int
    before: float
    after: float
    outputs: tuple[Output, ...]


def remove_branches(model: onnx.ModelProto, batches: Sequence[Feeds], share: float, progress: Progress) -> Shallower:
    """Remove blocks until the layers take a share of their FLOPs, or the least above it that whole blocks make.

    Args:
        model: the model, which stays unchanged.
        batches: the samples.
        share: of the FLOPs, which stays at least.
        progress: is told what is going on, and the share that is done.

    Raises:
        PruningError: there is no block, or none that is small enough.

    """
    found, work, outputs = _measured(model, batches, progress)
    if not found:
        raise PruningError("no block can go: the model has no Add of a value and of what is computed from it")
    bare, before, gone = _bare(model), sum(work.values()), list[Branch]()
    now = before
    for branch in sorted(found, key=lambda each: each.change / max(each.flops, 1.0)):
        after = sum(flops for name, flops in work.items() if name in _living(without(bare, [*gone, branch])))
        if share * before <= after < now:
            gone.append(branch)
            now = after
    if not gone:
        raise PruningError(f"no block takes at most {100 * (1 - share):.0f} % of the FLOPs; give a higher --sparsity")
    small = cleaned(without(model, gone))
    classes = class_outputs(model)
    walk = Walk.over(small, batches)
    for _ in walk.stops([]):
        values = {name: walk.values[name] for name in outputs}
    return Shallower(small, tuple(gone), len(found), before, now, tuple(
        compared(name, values[name], arrays, classes) for name, arrays in outputs.items()))


def _measured(model: onnx.ModelProto, batches: Sequence[Feeds], progress: Progress,
              ) -> tuple[list[Branch], dict[str, float], Mapping[str, list[np.ndarray]]]:
    """The branches, the FLOPs of every layer by the name of its output, and the outputs."""
    known = {layer.index: layer for layer in layers(model)[0]}
    adds = {index: past for index, node in enumerate(model.graph.node) if (past := _past(model, node)) is not None}
    work, found, walk = dict[str, float](), list[Branch](), Walk.over(model, batches)
    for index in walk.stops(sorted({*known, *adds})):
        if index in known:
            progress("looking at blocks", index / len(model.graph.node))
            node, layer = model.graph.node[index], known[index]
            work[node.output[0]] = _flops(layer, walk.values[layer.input], batches)
        elif index in adds:
            node = model.graph.node[index]
            squares = np.zeros(2)
            for sides in zip(*(walk.values[name] for name in node.input), strict=True):
                whole = sides[0].astype(np.float64) + sides[1]
                kept = sides[list(node.input).index(adds[index])]
                squares += np.square(whole - kept).sum(), np.square(whole).sum()
            found.append(Branch(node.name or node.output[0], adds[index], node.output[0],
                                float(squares[0] / max(squares[1], SMALLEST)), 0.0))
    outputs = {value.name: walk.values[value.name] for value in model.graph.output}
    bare, priced = _bare(model), []
    for branch in found:
        living = _living(without(bare, [branch]))
        flops = sum(each for name, each in work.items() if name not in living)
        if flops:
            priced.append(Branch(branch.name, branch.past, branch.sum, branch.change, flops))
    return priced, work, outputs


def _flops(layer: Layer, values: Sequence[np.ndarray], batches: Sequence[Feeds]) -> float:
    samples = sum(len(next(iter(batch.values()))) for batch in batches)
    return 2.0 * float(np.prod(layer.shape)) * sum(positions(layer, value) for value in values) / samples


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes and outputs alone, which say what depends on what."""
    result = onnx.ModelProto()
    result.graph.node.extend(model.graph.node)
    result.graph.output.extend(model.graph.output)
    return result


def _past(model: onnx.ModelProto, node: onnx.NodeProto) -> str | None:
    """Of an Add, the operand that the other is computed from; None where there is none."""
    if node.op_type != "Add" or node.output[0] in {value.name for value in model.graph.output}:
        return None
    for one, other in (node.input, tuple(reversed(node.input))):
        if one != other and one in _sources(model, other):
            return str(one)
    return None


def _sources(model: onnx.ModelProto, name: str) -> set[str]:
    """All values that a value is computed from."""
    makers = {output: node for node in model.graph.node for output in node.output}
    found, waiting = set[str](), [name]
    while waiting:
        maker = makers.get(waiting.pop())
        fresh = reads(maker) - found if maker is not None else set()
        found |= fresh
        waiting += fresh
    return found


def without(model: onnx.ModelProto, branches: Sequence[Branch]) -> onnx.ModelProto:
    """A copy in which what goes past some branches takes the place of their sums."""
    result, place = onnx.ModelProto(), {branch.sum: branch.past for branch in branches}
    result.CopyFrom(model)
    for node in result.graph.node:
        for number, name in enumerate(node.input):
            kept = name
            while kept in place:
                kept = place[kept]
            node.input[number] = kept
    return result


def _living(model: onnx.ModelProto) -> set[str]:
    """The values that outputs are computed from, and they themselves."""
    names = {value.name for value in model.graph.output}
    return names.union(*(_sources(model, name) for name in names))


def cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without nodes and constants that no output needs, in place."""
    living = _living(model)
    nodes = [node for node in model.graph.node if living & set(node.output)]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in living]
    values = [value for value in model.graph.value_info if value.name in living]
    for field, kept in (("node", nodes), ("initializer", tensors), ("value_info", values)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(kept)
    return model
