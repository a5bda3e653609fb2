"""What of a staged model runs on a device of its own: which values are stored in half precision there, and what is left
to the processor.

Stages of rows, attention, the caches that it reads, and what only looks at their results in another shape stay on the
device. Steps whose inputs the caller or the processor has, as those that make masks, run there before. Others between
stages run on the processor, to which their inputs are brought, and are reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.compiler.report import Outside
from sparsec.compiler.sized.attention import ATTENTION
from sparsec.compiler.sized.chains import Chained, fuse_chains
from sparsec.compiler.sized.computed import Kernels, is_half, kernels_of
from sparsec.compiler.sized.plan import Plan
from sparsec.compiler.sized.rotary import ROTARY
from sparsec.compiler.sized.rows import NORMS
from sparsec.compiler.sized.stage import RowStage, Stage
from sparsec.graph.annotations import HALF
from sparsec.graph.constants import constant
from sparsec.graph.guards import is_select
from sparsec.graph.nodes import node_name, operator_of
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.sized import LEVELS, RECURRENCE, SIZED_DOMAIN, WINDOWS
from sparsec.passes.context import Spared
from sparsec.runtime.sized.device_caches import caches_of
from sparsec.runtime.sized.viewing import SHAPE, VIEWS, looks

HALVES = {f"{DOMAIN}::{ATTENTION}", f"{DOMAIN}::{ROTARY}", *(f"{SIZED_DOMAIN}::{kind}" for kind in WINDOWS)}
"""Operators between stages whose kernels on a device give half precision, but for codes."""
JOINS = "Concat"
"""The operator whose result a device copies together."""
KERNELS = HALVES | {f"{SIZED_DOMAIN}::{kind}" for kind in (LEVELS, RECURRENCE)}
"""Operators between stages that have kernels of run-time sizes on a device."""


ALONE = (*NORMS, "Gather", "Celu", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Selu",
         "Softplus", "Softsign", "Swish", "ThresholdedRelu")
"""Operators on rows that have no kernel between stages, or read a table that lies on the device."""


LONGER = "its size follows the length of a cache, and one graph serves every length"
"""Why a look at memory is left to the processor."""


def mark_halves(stages: Sequence[Stage], half: str, kernels: Kernels) -> None:
    """Let floats that stages and attention compute for others be stored in half precision; outputs stay as they are.

    So are those of nodes that `kernels` compute of such, where these are bounded.
    """
    for stage in stages:
        if isinstance(stage, RowStage) or operator_of(stage) in HALVES:
            made = [value for value in stage.outputs if not value.is_graph_output() and not _recurs(value)]
        elif is_select(stage) or operator_of(stage) == JOINS:
            kept = all(value is not None and HALF.get(value) for value in stage.inputs[int(is_select(stage)):])
            made = [value for value in stage.outputs if kept]
        elif is_half(stage, kernels):
            made = [value for value in stage.outputs if not value.is_graph_output()]
        else:
            source = stage.inputs[0] if stage.inputs else None
            kept = source is not None and HALF.get(source) is not None and looks(
                operator_of(stage), [_known(value) for value in stage.inputs[1:]])
            made = [value for value in stage.outputs if kept]
        for value in made:
            if value.dtype in (None, ir.DataType.FLOAT):
                HALF.set(value, half)


def _known(value: ir.Value | None) -> np.ndarray | None:
    """A constant; for what follows from sizes, ones of its rank."""
    found = constant(value)
    return found if value is None or found is not None else np.ones((1,) * len(value.shape or ()))


def _recurs(value: ir.Value) -> bool:
    """Whether recurrences alone read a value, in float32."""
    uses = [operator_of(use.node) for use in value.uses()]
    return bool(uses) and all(each == f"{SIZED_DOMAIN}::{RECURRENCE}" for each in uses)


def left_to_processor(plan: Plan, spared: Spared, kernels: Kernels, chained: Chained) -> list[Outside]:
    """The steps that run on the processor between those of the device; others get their `kernels` in the plan.

    Those that can be `chained` become one.
    """
    found, left = caches_of(plan.fields), []
    grown, lengths = (set(), frozenset()) if found is None else ({cache.grown for cache in found.each}, found.sizes)
    for number, node in _between(plan, grown, lengths, kernels):
        computed = kernels_of(node, kernels)
        if isinstance(computed, str):
            longer = operator_of(node) in VIEWS and _follows(node, lengths)
            why = spared.why_interpreted(node) or f"{LONGER if longer else computed}, and fixed sizes have kernels"
            left.append(Outside(node_name(node), node.op_type, "the processor computes it where the run tells the "
                                f"sizes, and its inputs are brought there; {why}"))
        else:
            plan.fields["steps"][number]["computed"] = [list(each) for each in computed]
            plan.computed[node] = computed
    fuse_chains(plan, chained)
    return left


def _follows(node: ir.Node, lengths: Collection[str | None]) -> bool:
    """Whether what a node makes of its first operand depends on one of the values that follow from caches' lengths."""
    return any(value is not None and value.name in lengths for value in node.inputs[1:])


def _between(plan: Plan, presents: Collection[str], lengths: Collection[str | None],
             kernels: Kernels) -> Iterator[tuple[int, ir.Node]]:
    """The nodes that compute something of what is on the device, with the numbers of their steps."""
    there: set[ir.Value] = set()
    known: dict[str | None, Any] = {name: plan.arrays[number] for name, number in plan.fields["constants"].items()}
    known |= {name: np.ones((1,) * each["rank"]) for name, each in plan.fields["sizes"].items()}
    for number, stage in zip(plan.numbers, plan.stages, strict=True):
        if isinstance(stage, RowStage) or operator_of(stage) in KERNELS or stage.outputs[0].name in presents:
            there.update(stage.outputs)
        elif there.isdisjoint(value for value in stage.inputs if value is not None) or operator_of(stage) == SHAPE:
            sizes = operator_of(stage) == SHAPE or all(value is None or value.name in known for value in stage.inputs)
            if sizes:
                known |= {value.name: np.ones((1,) * len(value.shape or ())) for value in stage.outputs}
        elif is_select(stage) or operator_of(stage) == JOINS or (
                _looks(stage, there, known) and not _follows(stage, lengths)):
            there.update(stage.outputs)
        else:
            if not isinstance(kernels_of(stage, kernels), str):
                there.update(stage.outputs)
            yield number, stage


def _looks(node: ir.Node, there: Collection[ir.Value], known: Mapping[str | None, Any]) -> bool:
    """Whether a node only looks at a value of the device, in a way that follows from sizes."""
    first, *others = node.inputs
    if first not in there or not all(each is None or each.name in known for each in others):
        return False
    return looks(operator_of(node), [None if each is None else known[each.name] for each in others])
