"""A model with sizes that only the run tells, cut into stages, before any of these has kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from sparsec.analysis.symbols.fixed import fixed_by_file
from sparsec.analysis.symbols.inference import infer_symbols
from sparsec.analysis.symbols.known import Symbols
from sparsec.backends.base import Backend
from sparsec.backends.job import Job
from sparsec.backends.layer_report import LayerReport
from sparsec.compiler.sized.attention import fuse_attention
from sparsec.compiler.sized.codes import round_for_layers, round_once, split_dynamic
from sparsec.compiler.sized.dense_convolutions import Convolutions, fuse
from sparsec.compiler.sized.device import ALONE, mark_halves
from sparsec.compiler.sized.image_change import has_open_sides
from sparsec.compiler.sized.images import rows_of_images
from sparsec.compiler.sized.joining import join_projections
from sparsec.compiler.sized.masks import add_masks
from sparsec.compiler.sized.movement import shorten_moves, sink_rows
from sparsec.compiler.sized.plan import Plan, write
from sparsec.compiler.sized.recurrent import write_recurrent
from sparsec.compiler.sized.rotary import fuse_rotary
from sparsec.compiler.sized.seen import Seen, seen_in
from sparsec.compiler.sized.simplify import choose_known, fold_known, merge_equal
from sparsec.compiler.sized.stage import RowStage, Stage, counts_of, stages_of
from sparsec.cost.precisions import CALIBRATED
from sparsec.passes.context import Context

OPERATOR_S = 1.5e-6
"""What an operator between the functions costs a call at least."""


@dataclass(frozen=True)
class Staged:
    """A model in stages: what is known of its sizes, the plan without libraries, the stages of rows, and convolutions.

    Sizes that are `fixed` are those that symbols must have, since the file's exporter has written them somewhere. What
    layers have `seen` in samples is None where there are none, or the precision needs none.
    """

    symbols: Symbols
    stages: list[Stage]
    plan: Plan
    compiled: list[RowStage]
    fixed: Mapping[str, int]
    convolutions: Convolutions
    seen: Seen | None = None

    @property
    def between_s(self) -> float:
        """What the operators between the stages cost a call, whatever its sizes."""
        return OPERATOR_S * (len(self.plan.fields["steps"]) - len(self.compiled))

    @property
    def alone(self) -> list[LayerReport]:
        """The rows of the report where no functions are compiled for any number of rows: those of convolutions."""
        return [] if self.compiled else [told(row) for row in self.convolutions.rows(self.convolutions.pixels)]


def staged(model: ir.Model, limits: Mapping[str, tuple[int, int]], job: Job, context: Context,
           backend: Backend) -> Staged:
    """The stages of a simplified model whose inputs have symbolic dimensions; rewrites the model.

    Raises:
        UnsupportedOperatorError: a node cannot run at sizes that only the run tells; names it.

    """
    seen = seen_in(model, job.real) if job.real and job.precision in CALIBRATED else None
    symbols = infer_symbols(model.graph)
    if write_recurrent(model.graph, symbols, backend.rejects_recurrence):
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
    add_masks(model.graph, symbols)
    fuse_attention(model.graph, symbols, lambda each: backend.rejects_attention(each, job) is None)
    fuse_rotary(model.graph, symbols)
    RemoveUnusedNodesPass()(model)
    if backend.device and join_projections(model.graph, symbols, lambda weights: backend.division(weights, job)):
        RemoveUnusedNodesPass()(model)
    round_for_layers(model.graph, symbols)
    stages = stages_of(model.graph, symbols, context.spared, ALONE if backend.device else ())
    if half := backend.half(job):
        mark_halves(stages, half, backend.computes)
    plan = write(model, stages, symbols, limits, on_device=bool(backend.device))
    return Staged(symbols, stages, plan, plan.stages_of_rows, fixed, convolutions, seen)


def told(row: LayerReport) -> LayerReport:
    """A row of the report that says in its detail, too, for how many rows it is."""
    return replace(row, detail=f"{row.detail} rows={row.rows}")
