"""Folding units that are constant into the layers that read them, as long as that makes no model larger."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsec.graph.liveness.analysis import Liveness, weight_of
from sparsec.graph.liveness.coupling import settle
from sparsec.graph.liveness.edit import set_data
from sparsec.graph.liveness.facts import Mask, every
from sparsec.graph.liveness.slabs import Hold, Key
from sparsec.passes.strip.addition import add, is_free
from sparsec.passes.strip.plan import Plan, cheaper, plan_layer


def plan_units(model: ir.Model, liveness: Liveness) -> list[Plan]:
    """How every layer with constant inputs can do without them, the plans that pay."""
    layers = [(node, place) for node in model.graph
              if (place := weight_of(node)) is not None and node.op_type != "Gather"]
    found = [plan_layer(node, place, liveness.known) for node, place in layers if node not in liveness.opaque]
    plans, changed = [plan for plan in found if plan is not None], True
    while plans and changed:
        pinned: dict[Key, Mask] = {}
        for plan in plans:
            pinned[plan.inputs] = pinned.get(plan.inputs, np.zeros_like(plan.staying)) | plan.staying
        holds, _ = settle(model.graph, liveness, lambda value, axis: _varying(value, axis, liveness), pinned)
        paying = [plan if _pays(plan, holds) else cheaper(plan) for plan in plans]
        changed = any(new is not old for new, old in zip(paying, plans, strict=True))
        plans = paying
    return plans


def _varying(value: ir.Value, axis: int, liveness: Liveness) -> Mask:
    """Needed elements in slabs that are not constant as a whole."""
    known = liveness.known[value]
    constant = every(known.mask, (i for i in range(known.mask.ndim) if i != axis), keepdims=True)
    return liveness.needed[value] & known.nonzero & ~constant


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
            weight = plan.node.inputs[weight_of(plan.node) or 0]
            assert weight is not None
            set_data(weight, plan.weight)
            if plan.total.any():
                add(plan.node, plan.total)
