"""Folding units that are constant into the layers that read them, as long as that makes no model larger."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from sparsec.analysis.liveness.analysis import Liveness, needed_elements, weight_index
from sparsec.analysis.liveness.coupling import settle
from sparsec.analysis.liveness.edit import set_weight
from sparsec.analysis.liveness.facts import constant
from sparsec.analysis.liveness.slabs import Hold, Key
from sparsec.passes.strip.addition import add, is_free
from sparsec.passes.strip.plan import Plan, cheaper, plan_layer


def plan_units(model: ir.Model, liveness: Liveness) -> list[Plan]:
    """How every layer with constant inputs can do without them, the plans that pay."""
    layers = [(node, place) for node in model.graph
              if (place := weight_index(node)) is not None and node.op_type != "Gather" and node not in liveness.opaque]
    found = [plan_layer(node, place, liveness.known) for node, place in layers]
    plans, changed = [plan for plan in found if plan is not None], True
    while plans and changed:
        holds, _ = settle(model.graph, _after(plans, model, liveness))
        paying = [plan if _pays(plan, holds) else cheaper(plan) for plan in plans]
        changed = any(new is not old for new, old in zip(paying, plans, strict=True))
        plans = paying
    return plans


def _after(plans: list[Plan], model: ir.Model, liveness: Liveness) -> Liveness:
    """The liveness once the plans are carried out: layers do not read what they fold."""
    known = {**liveness.known, **{plan.layer_weight: constant(plan.weight) for plan in plans}}
    return Liveness(known, needed_elements(model.graph, known, liveness.opaque), liveness.opaque)


def _pays(plan: Plan, holds: Mapping[Key, Hold]) -> bool:
    """What the plan adds is no more than the weights of the inputs that can go."""
    if not plan.total.any() or is_free(plan.node, plan.total):
        return True
    hold = holds.get(plan.inputs)
    going = 0 if hold is None else int((hold[plan.folded] == 0).sum())
    return plan.total.size <= going * plan.weights_per_input


def fold_units(plans: list[Plan]) -> None:
    """Carries the plans out, in place."""
    for plan in plans:
        if plan.folded.any():
            set_weight(plan.layer_weight, plan.weight)
            if plan.total.any():
                add(plan.node, plan.total)
