"""The program of a model with sizes that only the run tells."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from sparsec.analysis.symbols.fixed import fixed_by_file
from sparsec.analysis.symbols.inference import infer_symbols
from sparsec.analysis.symbols.known import Symbols
from sparsec.backends.base import Backend, LayerReport
from sparsec.backends.job import Announce, Job
from sparsec.backends.program import SIZED, UNKNOWN, Calls, Function, Functions, Needs, Program, TensorSpec
from sparsec.compiler.outside import WEIGHTED, in_bodies, left_as_operators
from sparsec.compiler.pipeline import Phase, run_passes
from sparsec.compiler.planning import Stored
from sparsec.compiler.planning import plan as plan_layers
from sparsec.compiler.report import Outside
from sparsec.compiler.samples import advised
from sparsec.compiler.sized.attention import fuse_attention
from sparsec.compiler.sized.codes import round_for_layers, round_once, split_dynamic
from sparsec.compiler.sized.dense_convolutions import Convolutions, fuse
from sparsec.compiler.sized.device import left_to_processor, mark_halves, refuse_branches
from sparsec.compiler.sized.image_change import has_open_sides
from sparsec.compiler.sized.images import rows_of_images
from sparsec.compiler.sized.movement import shorten_moves, sink_rows
from sparsec.compiler.sized.plan import Plan, write
from sparsec.compiler.sized.recurrent import add_layers, write_recurrent
from sparsec.compiler.sized.rotary import fuse_rotary
from sparsec.compiler.sized.simplify import choose_known, fold_known, merge_equal
from sparsec.compiler.sized.stage import Joint, RowStage, Stage, counts_of, joint, stages_of
from sparsec.compiler.sized.token import Token, token_of
from sparsec.cost.option import Option
from sparsec.cost.plan import CHOICE
from sparsec.errors import counted
from sparsec.graph.compare import random_feeds
from sparsec.graph.constants import constant
from sparsec.graph.interface import input_names, output_names
from sparsec.graph.large import key_of
from sparsec.graph.layout import Tiled, layout_of
from sparsec.graph.nodes import LAYERS, node_name
from sparsec.graph.shapes import SIZED_BY_VALUES
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
OPERATOR_S = 1.5e-6
"""What an operator between the functions costs a call at least."""


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
class Staged:
    """A model in stages: what is known of its sizes, the plan without libraries, the stages of rows, and convolutions.

    Sizes that are `fixed` are those that symbols must have, since the file's exporter has written them somewhere.
    """

    symbols: Symbols
    stages: list[Stage]
    plan: Plan
    compiled: list[RowStage]
    fixed: Mapping[str, int]
    convolutions: Convolutions

    @property
    def between_s(self) -> float:
        """What the operators between the stages cost a call, whatever its sizes."""
        return OPERATOR_S * (len(self.plan.fields["steps"]) - len(self.compiled))

    @property
    def alone(self) -> list[LayerReport]:
        """The rows of the report where no functions are compiled for any number of rows: those of convolutions."""
        return [] if self.compiled else [_told(row) for row in self.convolutions.rows(self.convolutions.pixels)]


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


def staged(model: ir.Model, limits: Mapping[str, tuple[int, int]], job: Job, context: Context,
           backend: Backend) -> Staged:
    """The stages of a simplified model whose inputs have symbolic dimensions; rewrites the model.

    Raises:
        UnsupportedOperatorError: a node cannot run at sizes that only the run tells; names it.

    """
    symbols = infer_symbols(model.graph)
    if write_recurrent(model.graph, job.target, symbols):
        symbols = infer_symbols(model.graph)
    if choose_known(model.graph, symbols) + fold_known(model.graph, symbols):
        symbols = infer_symbols(model.graph)  # shapes follow from more constants now
    fixed = fixed_by_file(model.graph, symbols)
    merge_equal(model.graph, symbols)
    round_once(model.graph, symbols)
    split_dynamic(model.graph, symbols)
    RemoveUnusedNodesPass()(model)
    sink_rows(model.graph, symbols)
    shorten_moves(model.graph, symbols)
    RemoveUnusedNodesPass()(model)
    NameFixPass()(model)
    merge_equal(model.graph, symbols)
    images = [(shape[0], *shape[2:]) for node in model.graph if node.op_type == "Conv"
              and has_open_sides(shape := symbols.shape(node.outputs[0])) and shape is not None]
    convolutions = Convolutions(backend, job, context, pixels=counts_of(images, limits, backend.rows)[-1])
    if rows_of_images(model.graph, symbols, convolutions.packed):
        RemoveUnusedNodesPass()(model)
        shorten_moves(model.graph, symbols)
        fuse(model.graph, symbols)
        NameFixPass()(model)
    fuse_attention(model.graph, symbols)
    fuse_rotary(model.graph, symbols)
    RemoveUnusedNodesPass()(model)
    round_for_layers(model.graph, symbols)
    stages = stages_of(model.graph, symbols)
    if half := backend.half(job):
        mark_halves(stages, half)
    plan = write(model, stages, symbols, limits)
    return Staged(symbols, stages, plan, plan.stages_of_rows, fixed, convolutions)


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
        recurrences = add_layers(whole.model.graph, found.plan.recurrences, count)
        own = replace(job, generated=[random_feeds(whole.model)], real=(),
                      announce=_for_rows(job.announce, count, place, len(main) + len(more)))
        passes = run_passes(whole.model, context, phase=Phase.SPECIALISE)
        whole.store_halves()
        left = tuple(replace(each, layer=original(each.layer))
                     for each in left_as_operators(whole.model.graph, passes))
        layers = plan_layers(whole.model, own, backend, backend.judge(whole.model, own),
                             alike if count in more else None)
        told = tuple(_told(replace(row, layer=original(row.layer), rows=count)) for row in layers)
        made = RowPlan(count, whole, recurrences, own, (*map(_told, found.convolutions.rows(count)), *told), passes,
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
    left = left_to_processor(plan) if backend.device else []
    if backend.device:
        refuse_branches(model.graph, plan, job.target.name)
    token = token_of(model.graph, plan.stages, found.symbols) if backend.chains and compiled else None
    plan.fields["token"] = None if token is None else {**token.fields, "before": _steps(plan, token)}
    layers = found.alone
    reports: list[Report] = []
    needs: list[Needs] = []
    plan.fields["rows"] = []
    plan.fields["kernels"] = _kernels(plan, job, backend, needs)
    numbers: dict[bytes, int] = {}
    for each in row_plans(model, found, job, context, backend, limits):
        chain = token.chain if token is not None and each.count == 1 else None
        each.job.announce("build")
        functions = backend.build_functions(each.whole.model, each.job, each.whole.parts(), chain)
        needs.append(functions.needs)
        plan.fields["rows"].append({"count": each.count, "seconds": each.seconds(backend),
                                    **_placed(plan, functions, numbers)})
        if each.recurrences:
            steps = backend.build_recurrences(each.recurrences, each.job)
            plan.fields["rows"][-1]["recurrences"] = _placed(plan, steps, numbers)
        layers += each.layers
        reports += each.passes
        left += each.outside
    program = Program(b"", SIZED, plan.program(), _specs(model.graph.inputs, input_names(model)),
                      _specs(model.graph.outputs, output_names(model)), needs=backend.needs_of_all(needs))
    return Sized(program, tuple(layers), tuple(outside(found, model.graph, left)), tuple(reports))


def outside(found: Staged, graph: ir.Graph, left: Sequence[Outside]) -> Iterator[Outside]:
    """What sessions compute without kernels, once each.

    Those are the layers that are `left` in stages of rows, products that are in none, and what ONNX's reference runs.
    """
    yield from {each.layer: each for each in left}.values()  # for every number of rows alike
    sizes = fixed_sizes(graph, found.plan.limits, found.fixed)
    for node in found.plan.stages:
        if isinstance(node, RowStage) or node in found.plan.interpreted or node.domain:
            continue
        if node.op_type in WEIGHTED and _is_product(node, found):
            yield Outside(node_name(node), node.op_type, "numpy computes it where the run tells the sizes, slower than "
                          f"onnxruntime; {_ways(node, sizes)}")
    for node in found.plan.interpreted:
        yield Outside(node_name(node), node.op_type, "ONNX's reference computes it where the run tells the sizes, much "
                      f"slower than onnxruntime; {_ways(node, sizes)}")
        yield from in_bodies(node)


def _ways(node: ir.Node, sizes: str) -> str:
    """What gives a node kernels, or why nothing does."""
    if node.op_type in SIZED_BY_VALUES:
        return "what it gives is as large as values say, at fixed sizes, too"
    made = node.outputs[0].dtype
    if node.op_type in LAYERS and made != ir.DataType.FLOAT:
        return f"it computes in {made}, and kernels in float32 only"
    return f"fixed sizes have kernels ({sizes})"


def fixed_sizes(graph: ir.Graph, limits: Mapping[str, tuple[int, int]], fixed: Mapping[str, int]) -> str:
    """How the options say fixed sizes, by an example that holds together: totals are sums, images have pixels."""
    sizes = advised(graph.inputs, limits)
    sizes |= {name: size for name, size in fixed.items() if name in sizes}
    return f"such as dims={sizes}" if sizes else "by shapes"


def _is_product(node: ir.Node, found: Staged) -> bool:
    """Whether a node multiplies matrices, not only numbers by each other as positions by frequencies."""
    shape = found.symbols.shape(node.inputs[0])
    inner = None if shape is None or not shape else shape[-1].number
    return constant(node.inputs[1]) is not None or inner != 1


def original(layer: str) -> str:
    """The name that a layer of the joint graph has in the model."""
    return re.sub(r"@\d+$", "", layer)


def _kernels(plan: Plan, job: Job, backend: Backend, needs: list[Needs]) -> dict[str, object] | None:
    """The library of the kernels between stages, and of what calls all kernels; None where there are none.

    What it needs of a machine is added to `needs`.
    """
    if not (plan.attentions or plan.rotations or plan.windows or plan.suppresses or plan.convolutions
            or plan.stages_of_rows):
        return None
    finds = any(step["op"] == f"{SIZED_DOMAIN}::{LEVELS}" for step in plan.fields["steps"])
    built, told = backend.build_sized_kernels(plan.attentions, plan.rotations, job, levels=finds,
                                              windows=plan.windows, suppression=plan.suppresses,
                                              convolutions=plan.convolutions, caches=plan.has_caches)
    needs.append(built.needs)
    return {"library": plan.array(np.frombuffer(built.library, np.uint8)), "objects": list(built.objects),
            "half": backend.half(job),
            "attention": [{"depth": each.depth, "width": each.width, **told} for each in plan.attentions]}


def _steps(plan: Plan, token: Token) -> list[int]:
    """The numbers of the steps in front of the function for one token."""
    return [number for number, stage in zip(plan.numbers, plan.stages, strict=True) if stage in token.before]


def _told(row: LayerReport) -> LayerReport:
    """A row of the report that says in its detail, too, for how many rows it is."""
    return replace(row, detail=f"{row.detail} rows={row.rows}")


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
