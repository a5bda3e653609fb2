"""What an artifact that the run tells the sizes does, as `compile` makes it, without compiling it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.size import is_name
from sparsec.compiler.fallback import MOST
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import simplify
from sparsec.compiler.samples import usual
from sparsec.compiler.sized.build import RowPlan, row_plans
from sparsec.compiler.sized.device import left_to_processor
from sparsec.compiler.sized.outside import outside as outside_of
from sparsec.compiler.sized.seen import original
from sparsec.compiler.sized.staged import staged
from sparsec.cost.calibration import Calibration
from sparsec.errors import SparsecError
from sparsec.graph import reader
from sparsec.graph.nodes import node_name
from sparsec.graph.sizes import Dims, check_dims, ranges
from sparsec.passes.context import NOTHING, Spared
from sparsec.report.interpreted import times_of

NO_INPUTS: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True)
class Outside:
    """A node that runs without sparsec's kernels, why, and its operator where a single one is told of."""

    node: str
    text: str
    operator: str = ""


@dataclass(frozen=True)
class Rows:
    """How a layer runs for a number of rows, where the run tells how many there are; more are made of such."""

    layer: str
    rows: int
    format: str
    kernel: str
    predicted_us: float


@dataclass(frozen=True)
class AnySize:
    """An artifact that the run tells the sizes, as `compile` makes it of the same options.

    Attributes:
        rows: the kernels of its layers.
        call_us: by number of rows, predicted microseconds of a call: its layers, what stands between them in compiled
            stages, and what stages and operators cost by being called. What numpy, attention, recurrent steps and
            ONNX's reference compute is not in it.
        recurrent: the layers among them that take a batch through `compiler.sized.recurrent.STEPS` steps.
        interpreted: by node, the microseconds that ONNX's reference takes for it at the sizes that the layers are
            priced at, as it was timed; without those that it takes no ones for.
        stages, operators: how many a call has of compiled stages, and of operators between them.
        outside: what runs without kernels.

    """

    rows: tuple[Rows, ...]
    call_us: Mapping[int, float]
    recurrent: tuple[str, ...]
    interpreted: Mapping[str, float]
    stages: int
    operators: int
    outside: tuple[Outside, ...]


@dataclass(frozen=True)
class Priced:
    """What makes all inputs static.

    Attributes:
        shapes: of inputs.
        sizes: of symbols.
        assumed: the sizes, also of dimensions without a symbol, that no option gives.
        graph: the model where nothing had to be assumed, so that it need not be read again.

    """

    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    assumed: dict[str, int]
    graph: ir.Model | None = None


def priced(model: reader.Source, shapes: Mapping[str, Sequence[int]], dims: Dims, share: int = 1,
           inputs: Mapping[str, np.ndarray] = NO_INPUTS) -> Priced:
    """The shapes and sizes that the layers of a model are priced at.

    Where no option gives them, they are those of real inputs, or a `share` of what is usual.
    """
    if dims:
        check_dims(reader.load(model, symbolic=True), dims, shapes)
    limits = ranges(dims)
    sizes = {name: size for name, size in dims.items() if isinstance(size, int)}
    given = {name: tuple(shape) for name, shape in shapes.items()}
    graph = reader.load(model, shapes=given, dims=sizes, symbolic=True)
    free = [dim.value for value in graph.graph.inputs for dim in value.shape or () if not isinstance(dim, int)]
    if not free:
        return Priced(given, sizes, {}, graph)
    least = {name: max(1, limits.get(name, (1, 1))[0]) for name in free if name is not None and is_name(name)}
    told = {dim.value: size for value in graph.graph.inputs if value.name in inputs
            for dim, size in zip(value.shape or (), inputs[value.name or ""].shape, strict=False)
            if not isinstance(dim, int) and dim.value in least and size}
    assumed = least | usual(graph.graph.inputs, limits, share) | told
    try:
        static = reader.load(model, shapes=given, dims=sizes | assumed, symbolic=True)
    except SparsecError:  # what is usual does not fit this network
        assumed = least
        static = reader.load(model, shapes=given, dims=sizes | assumed, symbolic=True)
    sizes |= assumed
    for value in static.graph.inputs:
        own = list(value.shape or ())
        if unbound := [size.value or f"{value.name}.{axis}" for axis, size in enumerate(own)
                       if not isinstance(size, int)]:
            assumed |= dict.fromkeys(unbound, 1)
            given[value.name or ""] = tuple(size if isinstance(size, int) else 1 for size in own)
    return Priced(given, sizes, assumed)


def any_size(model: reader.Source, options: CompileOptions, calibration: Calibration | None,
             sizes: Mapping[str, int]) -> AnySize | None:
    """How an artifact for any size runs, where the target takes such; `sizes` are those that layers are priced at."""
    if not options.backend.sized:
        return None
    limits = ranges(options.dims or {})
    spared = NOTHING
    while True:
        simplified = simplify(model, options, calibration=calibration, symbolic=True, spared=spared)
        found = staged(simplified.graph, limits, simplified.job, simplified.context, options.backend)
        plans = list(row_plans(simplified.graph, found, simplified.job, simplified.context, options.backend, limits))
        more = _lacking(plans, options, spared)
        if not more:
            break
        spared = Spared(interpreted={**spared.interpreted, **more})
    layers, call_us = found.alone, dict[int, float]()
    left = (left_to_processor(found.plan, spared, options.backend.computes, options.backend.chained)
            if options.backend.device else [])
    if layers:
        pixels = found.convolutions.pixels
        call_us[pixels] = 1e6 * (found.between_s + found.convolutions.seconds(pixels))
    for each in plans:
        layers += each.layers
        left += each.outside
        call_us[each.count] = 1e6 * (found.between_s + each.seconds(options.backend)
                                  + found.convolutions.seconds(each.count))
    rows = [Rows(row.layer, row.rows or 0, row.format, row.kernel, row.predicted_us) for row in layers]
    order = {layer: place for place, layer in enumerate(dict.fromkeys(row.layer for row in rows))}
    notes = tuple(Outside(each.layer, each.reason, each.operator)
                  for each in outside_of(found, simplified.graph.graph, left, spared))
    steps = len(found.plan.fields["steps"])
    recurrent = tuple(original(node_name(node)) for node in found.plan.recurrences)
    return AnySize(tuple(sorted(rows, key=lambda row: order[row.layer])), call_us, recurrent, times_of(found, sizes),
                   len(found.compiled), steps - len(found.compiled), notes)


def _lacking(plans: Sequence[RowPlan], options: CompileOptions, spared: Spared) -> dict[str, str]:
    """What of the stages of rows the target has no implementation for, beside what is spared already."""
    if not plans or len(spared.interpreted) >= MOST:
        return {}
    found = options.backend.lacking(plans[0].whole.model, plans[0].job)
    return {name: reason for name, reason in found.items() if name not in spared.interpreted}
