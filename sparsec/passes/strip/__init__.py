"""Strip what pruning made inactive: constant units fold into the next layer, unneeded ones go, weights become zero.

The steps: facts of the model as given (`graph.liveness`), folding of constants, which changes no value, facts again,
removal of what no output needs. The model computes the same outputs for finite inputs and weights.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from sparsec.graph.liveness.analysis import Liveness, analyse
from sparsec.graph.liveness.conv import name
from sparsec.passes.context import Context, Note
from sparsec.passes.rewrite import clean
from sparsec.passes.strip.folding import fold_operands, fold_units
from sparsec.passes.strip.removal import remove
from sparsec.passes.strip.report import Layer, Size, StripReport, as_dict, compare, measure

__all__ = ["Layer", "Size", "StripReport", "as_dict", "run", "strip"]


def run(model: ir.Model, _context: Context) -> StripReport:
    """Strips the graph in place."""
    return strip(model)


def strip(model: ir.Model) -> StripReport:
    """Strips a model in place; it must be sorted and have inferred shapes, as `graph.reader.load` returns it."""
    for prepare in (IdentityEliminationPass(), RemoveUnusedNodesPass()):
        prepare(model)
    before, liveness = measure(model), analyse(model)
    operands = fold_operands(model, liveness.known)
    folded = fold_units(model, liveness.known)
    RemoveUnusedNodesPass()(model)
    removal = remove(model, analyse(model))
    clean(model)
    layers, total = compare(before, measure(model), liveness, removal.staying)
    counts = {"units removed": total.before.units - total.after.units,
              "constant units folded": sum(f.units for f in folded), "constant operands folded": operands,
              "weights zeroed or removed": total.before.nonzero - total.after.nonzero}
    notes = [Note(f.layer, f"{f.staying} constant inputs stay: {f.reason}") for f in folded if f.staying]
    notes += [Note(layer.name, f"{count} units stay: {why}") for layer in layers for why, count in layer.staying.items()]
    unknown = {name(node): reason for node, reason in liveness.opaque.items()}
    return StripReport("strip", any(counts.values()), counts, (*notes, *(Note(n, r) for n, r in unknown.items())),
                       layers, total, unknown, _collapsed(liveness, layers))


def _collapsed(_liveness: Liveness, layers: tuple[Layer, ...]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers if layer.before.weights and not layer.active)


