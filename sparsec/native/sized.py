"""The plan of an artifact for run-time sizes as `libsparsec` reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from sparsec.artifact.file import Artifact
from sparsec.errors import UsageError
from sparsec.graph.shapes import SIZED_BY_VALUES
from sparsec.graph.sized import APPEND, KEPT_PARTS, KEPT_ROOM, SIZED_DOMAIN
from sparsec.native.types import type_number
from sparsec.runtime.sized import elementwise, images, ordering, scattering
from sparsec.runtime.sized.operators import OPERATORS

Add = Callable[[bytes | memoryview], list[int]]
"""Places bytes; their offset and length."""
Place = Callable[[np.ndarray], dict[str, Any]]
"""Places an array; its entry."""


_CALLS = {"rows", "attention", "rotary", "recurrence", "windows", "suppression", "append", f"{SIZED_DOMAIN}::{APPEND}"}
"""Steps that are no operators of ONNX."""
NATIVE = OPERATORS.keys() - {*images.OPERATORS, *scattering.OPERATORS, *ordering.OPERATORS, *elementwise.ACTIVATIONS}
"""The operators between stages that libsparsec has."""


FIXED = "give its dimensions sizes with dims or shapes"
WAYS = ("export the model up to what it reads and do the rest in the program, or run the artifact by Python, as "
        "sparsec.InferenceSession, `sparsec serve` and `sparsec bundle --triton` do")
"""What to do in place of a bundle, where fixed sizes help and where they do not."""


def sized_plan(artifact: Artifact, add: Add, place: Place) -> dict[str, Any]:
    """The plan, with numbers of element types and the places of arrays in it.

    Raises:
        UsageError: a step takes Python; names it.

    """
    encoded, *arrays = artifact.constants()
    plan: dict[str, Any] = json.loads(encoded.tobytes())
    recurrences = [each["recurrences"] for each in plan["rows"] if each.get("recurrences")]
    libraries = [*plan["rows"], *recurrences, *([plan["kernels"]] if plan["kernels"] else [])]
    if any(each["objects"] for each in libraries):
        raise UsageError(f"the artifact was compiled where there is no linker for {artifact.manifest.platform}; "
                         "compile it where ld.lld, or ld or gcc for that processor, is installed")
    for each in libraries:
        each["library"] = add(arrays[each["library"]].tobytes())
        for function in each.get("functions", ()):
            del function["calls"]  # of sessions alone
            function["constants"] = [place(arrays[number]) for number in function["constants"]]
    for each in (*plan["inputs"], *plan["sizes"].values()):
        each["dtype"] = type_number(each["dtype"])
    plan["constants"] = {name: place(arrays[number]) for name, number in plan["constants"].items()}
    for step in plan["steps"]:
        _check_native(step, arrays)
    plan["steps"] = [_step(step) for step in plan["steps"]]
    return plan


def _check_native(step: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Raises UsageError where libsparsec has no such step; names what it makes, the operator, and the way out."""
    kind, ways = step["op"], FIXED
    if kind in _CALLS or kind in NATIVE:
        return
    if kind in OPERATORS:
        what = ("of images of any size" if kind in images.OPERATORS
                else "of sizes that values decide" if kind in scattering.OPERATORS else "of any size")
        by = f"numpy ({kind} {what})"
    else:
        operators = [node.op_type for node in onnx.ModelProto.FromString(arrays[step["model"]].tobytes()).graph.node]
        by = f"ONNX's reference ({', '.join(operators)})"
        ways = WAYS if SIZED_BY_VALUES.intersection(operators) else FIXED
    raise UsageError(f"'{', '.join(step['outputs'])}' of the model is computed by {by}, which takes Python; {ways}")


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step with numbers for element types."""
    kind = step["op"]
    if kind == "rows":
        return {**step, **{key: [{**each, "dtype": type_number(each["dtype"])} for each in step[key]]
                           for key in ("given", "made")}}
    if kind == "suppression":
        return {**step, "room": KEPT_ROOM, "parts": KEPT_PARTS}
    if "attributes" not in step:
        return dict(step)
    return {**step, "attributes": {name: _attribute(name, value) for name, value in step["attributes"].items()}}


def _attribute(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {**value, "dtype": type_number(value["dtype"])}
    return type_number(value) if name == "to" else value
