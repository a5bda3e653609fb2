"""Element-wise operators in a row between stages become one step on a device that has a kernel for all of them.

    y = Mul(Sigmoid(Add(x, b)), g)   is a step of x, b and g

Where only the next operator reads a result, it is never stored: what it was made of is spread to the next one's result
instead. A session that has to take the step on the processor takes the operators one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from sparsec.compiler.sized.plan import Plan
from sparsec.graph.sized import Computed
from sparsec.runtime.sized.operators import CHAIN

Chained = Callable[[Computed, "Sequence[Computed | None]"], "Computed | None"]
"""`Backend.chained`."""


def fuse_chains(plan: Plan, chained: Chained) -> int:
    """Let steps of the plan take those that only they read; returns how many these are."""
    steps = plan.fields["steps"]
    read = Counter(name for step in steps for name in (*step["inputs"], *(each for each, _ in step["when"])))
    read.update(each["value"] for each in plan.fields["outputs"])
    makers: dict[str, tuple[int, ir.Node]] = {}
    gone: set[int] = set()
    for number, stage in zip(plan.numbers, plan.stages, strict=True):
        kernels = plan.computed.get(stage, ()) if isinstance(stage, ir.Node) else ()
        if len(kernels) != 1 or not isinstance(stage, ir.Node):
            continue
        step, names = steps[number], [name for name in steps[number]["inputs"] if name]
        found: list[tuple[int, ir.Node] | None] = [None] * len(names)
        whole: Computed | None = None
        for index, name in enumerate(names):
            if read[name] == 1 and name in makers and steps[makers[name][0]]["when"] == step["when"]:
                trial = [*found[:index], makers[name], *found[index + 1:]]
                wider = chained(kernels[0], [None if each is None else plan.computed[each[1]][0] for each in trial])
                found, whole = (found, whole) if wider is None else (trial, wider)
        if whole is not None:
            steps[number] = _joined(step, names, [None if each is None else steps[each[0]] for each in found], whole)
            plan.computed[stage] = [whole]
            for taken in filter(None, found):
                gone.add(taken[0])
                del plan.computed[taken[1]]
        makers[step["outputs"][0]] = number, stage
    _drop(plan, gone)
    return len(gone)


def _joined(step: dict[str, Any], names: Sequence[str], before: Sequence[dict[str, Any] | None], whole: Computed,
            ) -> dict[str, Any]:
    """The step of one and of those that make some of what it reads."""
    inputs: list[str] = []
    nodes: list[dict[str, Any]] = []
    for name, each in zip(names, before, strict=True):
        inputs += [name] if each is None else [own for own in each["inputs"] if own]
        nodes += [] if each is None else _nodes(each)
    return {"op": CHAIN, "inputs": inputs, "outputs": step["outputs"], "when": step["when"], "attributes": {},
            "nodes": [*nodes, *_nodes(step)], "computed": [list(whole)]}


def _nodes(step: dict[str, Any]) -> list[dict[str, Any]]:
    """The operators of a step."""
    return step["nodes"] if step["op"] == CHAIN else [
        {key: step[key] for key in ("op", "inputs", "outputs", "attributes")}]


def _drop(plan: Plan, gone: set[int]) -> None:
    """Take steps out of the plan."""
    kept = [number for number in range(len(plan.fields["steps"])) if number not in gone]
    plan.fields["steps"] = [plan.fields["steps"][number] for number in kept]
    places = {number: place for place, number in enumerate(kept)}
    left = [(places[number], stage) for number, stage in zip(plan.numbers, plan.stages, strict=True)
            if number not in gone]
    plan.numbers, plan.stages = [number for number, _ in left], [stage for _, stage in left]
