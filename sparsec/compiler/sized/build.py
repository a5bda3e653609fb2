"""The program of a model with sizes that only the run tells."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sparsec.backends.base import Backend
from sparsec.backends.job import Announce, Job
from sparsec.backends.layer_report import LayerReport
from sparsec.backends.program import SIZED, UNKNOWN, Calls, Function, Functions, Later, Needs, Program, TensorSpec
from sparsec.compiler.outside import left_as_operators
from sparsec.compiler.pipeline import Phase, run_passes
from sparsec.compiler.planning import Stored
from sparsec.compiler.planning import plan as plan_layers
from sparsec.compiler.report import Outside
from sparsec.compiler.sized.device import left_to_processor
from sparsec.compiler.sized.outside import outside
from sparsec.compiler.sized.plan import Plan
from sparsec.compiler.sized.recurrent import add_layers
from sparsec.compiler.sized.seen import original
from sparsec.compiler.sized.stage import Joint, counts_of, joint
from sparsec.compiler.sized.staged import Staged, staged, told
from sparsec.compiler.sized.token import Token, token_of
from sparsec.cost.option import Option
from sparsec.cost.plan import CHOICE
from sparsec.errors import counted
from sparsec.graph.compare import random_feeds
from sparsec.graph.interface import input_names, output_names
from sparsec.graph.large import key_of
from sparsec.graph.layout import Tiled, layout_of
from sparsec.graph.sized import LEVELS, SIZED_DOMAIN
from sparsec.passes.context import Context, Report
from sparsec.runtime.sized.rows import Splitter

WORTH = 0.1
"""The share of the time of calls for other numbers of rows that one of a backend's `more_rows` saves at least."""
UNSTORED = 0.05
"""The share of its weights that one of these may store anew."""
PLANNED = 0.3
"""The share of the time for a number of rows that its plan takes, the rest of which is building."""
CALL_S = 3e-6
"""What a call of a function costs beside its layers."""


@dataclass(frozen=True)
class Sized:
    """What was compiled.

    Attributes:
        program: for the artifact.
        layers: the rows of the report, of every number of rows.
        outside: the layers and other nodes that run without kernels, with the reason.
        passes: what passes did for every number of rows.

    """

    program: Program
    layers: tuple[LayerReport, ...]
    outside: tuple[Outside, ...]
    passes: tuple[Report, ...]


@dataclass(frozen=True)
class RowPlan:
    """The stages of rows for a number of rows, and the recurrences for so many members of a batch.

    Attributes:
        count: of the rows.
        whole: the stages, in whose model the recurrences are, too.
        recurrences: in the order of the plan.
        job: what they are compiled for.
        layers: how they run, and convolutions that are no rows of windows.
        passes: what passes did.
        outside: the layers with weights among the rest, which no kernel takes.

    """

    count: int
    whole: Joint
    recurrences: list[ir.Node]
    job: Job
    layers: tuple[LayerReport, ...]
    passes: list[Report]
    outside: tuple[Outside, ...]

    def seconds(self, backend: Backend) -> float:
        """What a call of all stages takes for so many rows."""
        nodes = backend.node_seconds(self.whole.model.graph, self.job)
        return CALL_S * len(self.whole.stages) + sum(each for node, each in nodes if node not in self.recurrences)


def row_plans(model: ir.Model, found: Staged, job: Job, context: Context, backend: Backend,
              limits: Mapping[str, tuple[int, int]]) -> Iterator[RowPlan]:
    """How the layers of a staged model run, for every number of rows that is compiled."""
    images = any(node.op_type in ("Conv", "ConvTranspose") for stage in found.compiled for node in stage.nodes)
    leads = [stage.rows.lead for stage in found.compiled]
    main = counts_of(leads, limits, backend.image_rows if images else backend.rows) if leads else ()
    more = [count for count in backend.more_rows if count < max(main, default=0)
            ] if main != backend.image_rows[:len(main)] else []
    more = [] if found.plan.recurrences else more
    stored: set[tuple[str, Hashable]] = set()
    seconds: dict[int, float] = {}

    def read(node: ir.Node, option: Option) -> tuple[str, Hashable]:
        return original(node.name or ""), backend.recipe(option)

    def alike(node: ir.Node, option: Option) -> bool:
        return read(node, option) in stored

    for place, count in enumerate((*main, *more)):
        whole = joint(model, found.compiled, found.symbols, count)
        recurrences = [] if backend.device else add_layers(whole.model.graph, found.plan.recurrences, count)
        own = replace(job, generated=[random_feeds(whole.model)], real=(), seen=found.seen,
                      announce=_for_rows(job.announce, count, place, len(main) + len(more)))
        passes = run_passes(whole.model, context, phase=Phase.SPECIALISE)
        whole.store_halves()
        left = tuple(replace(each, layer=original(each.layer))
                     for each in left_as_operators(whole.model.graph, passes))
        layers = plan_layers(whole.model, own, backend, backend.judge(whole.model, own),
                             alike if count in more else None)
        named = tuple(told(replace(row, layer=original(row.layer), rows=count)) for row in layers)
        made = RowPlan(count, whole, recurrences, own, (*map(told, found.convolutions.rows(count)), *named), passes,
                       left)
        time_s = made.seconds(backend)
        if count in more and not (_shares(whole.model.graph, alike) and _pays(count, time_s, seconds)):
            continue
        seconds[count] = time_s
        context = replace(context, tile=max(context.tile, _tile(whole.model.graph)))
        stored.update(read(node, choice.winner.option) for node in whole.model.graph
                      if (choice := CHOICE.get(node)) is not None)
        yield made


def _shares(graph: ir.Graph, stored: Stored) -> bool:
    """Whether nearly all weights of a planned graph are stored as its kernels read them."""
    chosen = [(node, choice.winner.option) for node in graph if (choice := CHOICE.get(node)) is not None]
    new = sum(option.nbytes for node, option in chosen if not stored(node, option))
    return new <= UNSTORED * sum(option.nbytes for _, option in chosen)


def _pays(count: int, time_s: float, seconds: Mapping[int, float]) -> bool:
    """Whether calls for so many rows take less than calls for others."""
    others = Splitter(seconds)
    return time_s < (1 - WORTH) * others.takes(others.parts(count))


def _tile(graph: ir.Graph) -> int:
    """The tokens of the largest tile."""
    return max((layout.width for node in graph for value in node.outputs
                if isinstance(layout := layout_of(value), Tiled)), default=0)


def _for_rows(announce: Announce, count: int, place: int, of: int) -> Announce:
    """What tells of the steps for a number of rows, one of several, so that it is seen why they take as many times."""
    def tell(step: str, part: float = 0.0, measuring_s: float = 0.0) -> None:
        announce(f"{'build' if step == 'build' else 'plan'} for {counted(count, 'row')} ({place + 1} of {of})",
                 (place + (PLANNED if step == "build" else PLANNED * part)) / of, measuring_s)

    return tell


def build(model: ir.Model, job: Job, context: Context, backend: Backend,
          limits: Mapping[str, tuple[int, int]]) -> Sized:
    """Compile a simplified model whose inputs have symbolic dimensions.

    Raises:
        UnsupportedOperatorError: a node cannot run at sizes that only the run tells; names it.

    """
    found = staged(model, limits, job, context, backend)
    plan, compiled = found.plan, found.compiled
    left = left_to_processor(plan, context.spared, backend.computes, backend.chained) if backend.device else []
    token = token_of(model.graph, plan.stages, found.symbols) if backend.chains and compiled else None
    plan.fields["token"] = None if token is None else {**token.fields, "before": _steps(plan, token)}
    layers = found.alone
    reports: list[Report] = []
    needs: list[Needs] = []
    with backend.side_by_side():
        kernels = _kernels(plan, job, backend)
        built: list[tuple[RowPlan, Later]] = []
        plan.fields["rows"] = []
        numbers: dict[bytes, int] = {}
        for each in row_plans(model, found, job, context, backend, limits):
            chain = token.chain if token is not None and each.count == 1 else None
            each.job.announce("build")
            later = backend.build_functions(each.whole.model, each.job, each.whole.parts(), chain)
            if backend.device:
                built.append((each, later))
            else:  # equal constants of the next one are not held beside those
                _finish(plan, each, later(), backend, numbers, needs)
            layers += each.layers
            reports += each.passes
            left += each.outside
        plan.fields["kernels"] = None if kernels is None else kernels(needs)
        for each, later in built:
            _finish(plan, each, later(), backend, numbers, needs)
    program = Program(b"", SIZED, plan.program(), _specs(model.graph.inputs, input_names(model)),
                      _specs(model.graph.outputs, output_names(model)), needs=backend.needs_of_all(needs))
    return Sized(program, tuple(layers), tuple(outside(found, model.graph, left, context.spared)), tuple(reports))


def _finish(plan: Plan, rows: RowPlan, functions: Functions, backend: Backend, numbers: dict[bytes, int],
            needs: list[Needs]) -> None:
    """Enter what is compiled for a number of rows into the plan, and what it needs of a machine."""
    needs.append(functions.needs)
    plan.fields["rows"].append({"count": rows.count, "seconds": rows.seconds(backend),
                                **_placed(plan, functions, numbers)})
    if rows.recurrences:
        steps = backend.build_recurrences(rows.recurrences, rows.job)
        plan.fields["rows"][-1]["recurrences"] = _placed(plan, steps, numbers)


def _kernels(plan: Plan, job: Job, backend: Backend) -> Callable[[list[Needs]], dict[str, object]] | None:
    """What waits for the library of the kernels between stages and of what calls all kernels; None without any.

    What it needs of a machine is added to the needs that it is given.
    """
    if not (plan.attentions or plan.rotations or plan.windows or plan.suppresses or plan.convolutions
            or plan.stages_of_rows or plan.recurrences):
        return None
    finds = any(step["op"] == f"{SIZED_DOMAIN}::{LEVELS}" for step in plan.fields["steps"])
    later, told = backend.build_sized_kernels(plan.attentions, plan.rotations, job, levels=finds,
                                              windows=plan.windows, suppression=plan.suppresses,
                                              convolutions=plan.convolutions, caches=plan.has_caches,
                                              recurrences=plan.recurrences if backend.device else (),
                                              computed=list(dict.fromkeys(each for kernels in plan.computed.values()
                                                                          for each in kernels)))

    def placed(needs: list[Needs]) -> dict[str, object]:
        built = later()
        needs.append(built.needs)
        return {"library": plan.array(np.frombuffer(built.library, np.uint8)), "objects": list(built.objects),
                "half": backend.half(job),
                "functions": [{"constants": [plan.array(array) for array in each.constants]}
                              for each in built.functions],
                "attention": [{"depth": each.depth, "width": each.width, **told} for each in plan.attentions]}

    return placed


def _steps(plan: Plan, token: Token) -> list[int]:
    """The numbers of the steps in front of the function for one token."""
    return [number for number, stage in zip(plan.numbers, plan.stages, strict=True) if stage in token.before]


def _placed(plan: Plan, functions: Functions, numbers: dict[bytes, int]) -> dict[str, object]:
    """The library and its functions in the plan; equal constants are stored once for all numbers of rows."""
    placed_already = {id(array): number for number, array in enumerate(plan.arrays)}

    def number(array: np.ndarray) -> int:
        if id(array) in placed_already:
            return placed_already[id(array)]
        key = key_of(array)
        if key not in numbers:
            numbers[key] = placed_already[id(array)] = plan.array(array)
        return numbers[key]

    def placed(function: Function) -> dict[str, object]:
        return {"entry": function.entry, "constants": [number(array) for array in function.constants],
                "calls": None if function.calls is None else {
                    **called(function.calls), "embedded": [number(array) for array in function.calls.embedded]}}

    return {"library": plan.array(np.frombuffer(functions.library, np.uint8)), "objects": list(functions.objects),
            "functions": [placed(function) for function in functions.functions]}


def called(calls: Calls) -> dict[str, object]:
    """What a function does, in JSON's types: the bytes of its workspace, and its kernels with what each takes.

    The embedded constants are left out.
    """
    return {"workspace": calls.workspace, "kernels": [
        [kernel, [[each.place, each.offset, each.shape, each.dtype] for each in operands]]
        for kernel, operands in calls.kernels]}


def _specs(values: Sequence[ir.Value], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """The signature; sizes that only the run tells are `UNKNOWN`."""
    return tuple(TensorSpec(name, "float32" if value.dtype is None else value.dtype.numpy().name,
                            tuple(dim if isinstance(dim, int) else UNKNOWN for dim in value.shape or ()))
                 for value, name in zip(values, names, strict=True))
