"""Strip what pruning made inactive: constant units fold into the next layer, unneeded ones go, weights become zero.

The steps: facts of the model as given (`analysis.liveness`), folding of constants, facts again, removal of what no
output needs. The outputs stay the same as long as all values in the network are finite.
"""

from __future__ import annotations

import warnings

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from sparsec.analysis.liveness.analysis import Liveness, active_counts, analyse, weight_index
from sparsec.analysis.liveness.node import name as label
from sparsec.graph.interface import output_names
from sparsec.graph.nodes import node_name
from sparsec.passes.context import Context, Report
from sparsec.passes.rewrite import clean
from sparsec.passes.strip.biases import raise_biases
from sparsec.passes.strip.duplicates import merge_duplicates
from sparsec.passes.strip.folding import fold_units, plan_units
from sparsec.passes.strip.groups import broken, grouped
from sparsec.passes.strip.operands import fold_operands
from sparsec.passes.strip.removal import remove, zero_weights
from sparsec.passes.strip.report import Flow, Kept, Layer, Size, StripReport, as_dict, compose, measure

__all__ = ["Kept", "Layer", "Size", "StripReport", "as_dict", "run", "strip"]


def run(model: ir.Model, context: Context) -> Report:
    """Strips the graph in place, unless zeros must meet whatever NaN there is."""
    return Report("strip", modified=False) if context.strict_ieee else strip(model)


def strip(model: ir.Model, *, merge: bool = False) -> StripReport:
    """Strips a model in place; it must be sorted and have inferred shapes, as `graph.reader.load` returns it.

    Args:
        model: of standard operators; those that the analysis does not know keep everything alive around them.
        merge: also merges units with equal incoming weights, which changes sums in the last digits.

    """
    _prepare(model)
    before, liveness = measure(model), analyse(model)
    active, groups = active_counts(model, liveness), grouped(model)
    unknown, collapsed, severed = _flow(model, liveness)
    if severed and collapsed:
        warnings.warn(f"no path is left to output '{severed[0]}', which is the same for all inputs: pruning has cut "
                      f"off all of '{collapsed[0]}'", stacklevel=2)
    zero_weights(model, liveness)
    raise_biases(model, liveness)
    plans = plan_units(model, liveness)
    operands = fold_operands(model, liveness)
    fold_units(plans)
    RemoveUnusedNodesPass()(model)
    merged = merge_duplicates(model, analyse(model)) if merge else 0
    folded = analyse(model)
    zero_weights(model, folded)
    kept = [Kept(node_name(plan.node), "constant input", int(plan.staying.sum()), plan.reason)
            for plan in plans if plan.staying.any()]
    kept += remove(model, folded)
    clean(model)
    counts = {"constant units folded": sum(int(plan.folded.sum()) for plan in plans),
              "constant operands folded": operands, "duplicate inputs merged": merged}
    flow = Flow(unknown, collapsed, severed, broken(groups, model))
    return compose(before, measure(model), active, counts, kept, flow)


def _prepare(model: ir.Model) -> None:
    """Takes identities and unused nodes away, and has every constant in memory as an array."""
    for step in (IdentityEliminationPass(), RemoveUnusedNodesPass()):
        step(model)
    for value in model.graph.initializers.values():  # a tensor of a file converts its bytes whenever it is read
        if not isinstance(value.const_value, ir.Tensor | ir.LazyTensor | None):
            value.const_value = ir.Tensor(value.const_value.numpy(), dtype=value.const_value.dtype, name=value.name)


def _flow(model: ir.Model, liveness: Liveness) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """Where the analysis ends, and where the paths from the inputs do."""
    collapsed = []
    for node in model.graph:
        place = weight_index(node)
        data = None if place is None else node.inputs[1 - place]
        if data is not None and not liveness.known[data].constant and liveness.known[node.outputs[0]].constant:
            collapsed.append(node_name(node))
    severed = tuple(name for value, name in zip(model.graph.outputs, output_names(model), strict=True)
                    if liveness.known[value].constant)
    return {label(node): reason for node, reason in liveness.opaque.items()}, tuple(collapsed), severed
