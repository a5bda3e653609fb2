"""Strip what pruning made inactive: constant units fold into the next layer, unneeded ones go, weights become zero.

The steps: facts of the model as given (`graph.liveness`), folding of constants, facts again, removal of what no output
needs. The outputs stay the same as long as all values in the network are finite.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from sparsec.graph.liveness.analysis import active_weights, analyse
from sparsec.graph.liveness.conv import name
from sparsec.passes.context import Context, Note
from sparsec.passes.rewrite import clean, node_name
from sparsec.passes.strip.duplicates import merge_duplicates
from sparsec.passes.strip.folding import fold_units, plan_units
from sparsec.passes.strip.operands import fold_operands
from sparsec.passes.strip.removal import remove, zero_weights
from sparsec.passes.strip.report import Layer, Size, StripReport, as_dict, compare, measure

__all__ = ["Layer", "Size", "StripReport", "as_dict", "run", "strip"]


def run(model: ir.Model, _context: Context) -> StripReport:
    """Strips the graph in place."""
    return strip(model)


def strip(model: ir.Model, *, merge: bool = False) -> StripReport:
    """Strips a model in place; it must be sorted and have inferred shapes, as `graph.reader.load` returns it.

    Args:
        model: of standard operators; those that the analysis does not know keep everything alive around them.
        merge: also merges units with equal incoming weights, which changes sums in the last digits.

    """
    for prepare in (IdentityEliminationPass(), RemoveUnusedNodesPass()):
        prepare(model)
    before, liveness = measure(model), analyse(model)
    active = active_weights(model, liveness)
    zero_weights(model, liveness)
    plans = plan_units(model, liveness)
    operands = fold_operands(model, liveness)
    fold_units(plans)
    RemoveUnusedNodesPass()(model)
    merged = merge_duplicates(model, analyse(model)) if merge else 0
    folded = analyse(model)
    zero_weights(model, folded)
    staying = remove(model, folded)
    clean(model)
    layers, total = compare(before, measure(model), active, staying)
    counts = {"units removed": total.before.units - total.after.units,
              "constant units folded": sum(int(plan.folded.sum()) for plan in plans),
              "constant operands folded": operands, "duplicate inputs merged": merged,
              "weights zeroed or removed": total.before.nonzero - total.after.nonzero}
    notes = [Note(node_name(plan.node), f"{plan.staying.sum()} constant inputs stay: {plan.reason}")
             for plan in plans if plan.staying.any()]
    notes += [Note(layer.name, f"{count} units stay: {why}") for layer in layers for why, count in layer.staying.items()]
    unknown = {name(node): reason for node, reason in liveness.opaque.items()}
    notes += [Note(node, reason) for node, reason in unknown.items()]
    collapsed = tuple(layer.name for layer in layers if layer.before.weights and not layer.active)
    return StripReport("strip", any(counts.values()), counts, tuple(notes), layers, total, unknown, collapsed)
