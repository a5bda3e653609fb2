"""What an artifact for run-time sizes tells a session: the steps, by JSON, and the arrays that they need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.compiler.sized.attention import ATTENTION
from sparsec.compiler.sized.rotary import ROTARY
from sparsec.compiler.sized.rows import leading
from sparsec.compiler.sized.simplify import known_data
from sparsec.compiler.sized.stage import RowStage, Stage
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.annotations import HALF
from sparsec.graph.constants import constant
from sparsec.graph.guards import Guard, guards, is_select
from sparsec.graph.interface import input_names, output_names
from sparsec.graph.nodes import operand, read_by
from sparsec.graph.sized import (
    CONVOLUTIONS,
    IM2COL,
    RECURRENCE,
    SIZED_DOMAIN,
    SUPPRESSION,
    WINDOWS,
    Attention,
    Computed,
    Convolution,
)
from sparsec.runtime.sized.operators import GROWS, OPERATORS, SINGLE

NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""Element types that a device may store values of others in."""


@dataclass
class Plan:
    """The plan so far.

    Attributes:
        fields: what becomes JSON.
        arrays: the constants behind it.
        interpreted: the nodes that ONNX's reference runs.
        stages: those that outputs need, in the order of their steps.
        numbers: of each the number of its first step.
        attentions: the kernels of attention.
        rotations: those of rotations: features, and whether tables have angles for both halves.
        recurrences: the recurrences, each with a kernel of its own.
        windows: the kernels of windows of images, by operator.
        suppresses: whether there is a kernel of NonMaxSuppression.
        convolutions: the kernels of those that are no rows.
        computed: by other nodes, the kernels of a device for them.

    """

    fields: dict[str, Any]
    arrays: list[np.ndarray] = field(default_factory=list)
    interpreted: list[ir.Node] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    rotations: list[tuple[int, bool]] = field(default_factory=list)
    recurrences: list[ir.Node] = field(default_factory=list)
    windows: list[str] = field(default_factory=list)
    suppresses: bool = False
    convolutions: list[Convolution] = field(default_factory=list)
    computed: dict[ir.Node, Sequence[Computed]] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    @property
    def limits(self) -> dict[str, tuple[int, int]]:
        """The least and the largest size of the symbols that have several."""
        return {name: (least, most) for name, (least, most) in self.fields["limits"].items()}

    @property
    def has_caches(self) -> bool:
        """Whether a step appends to caches."""
        return any(step["op"] in GROWS for step in self.fields["steps"])

    @property
    def stages_of_rows(self) -> list[RowStage]:
        """Those among the stages."""
        return [stage for stage in self.stages if isinstance(stage, RowStage)]

    def array(self, array: np.ndarray) -> int:
        """The number of a constant."""
        self.arrays.append(array)
        return len(self.arrays) - 1

    def step(self, operator: str, inputs: Sequence[str | None], outputs: Sequence[str | None], **fields: Any) -> None:
        """One more step, which runs whenever conditions by name have the values of `when`."""
        self.fields["steps"].append({"op": operator, "inputs": list(inputs), "outputs": list(outputs), "when": [],
                                     **fields})

    def program(self) -> tuple[np.ndarray, ...]:
        """The constants of the program."""
        return np.frombuffer(json.dumps(self.fields).encode(), np.uint8), *self.arrays


def write(model: ir.Model, stages: Sequence[Stage], symbols: Symbols, limits: Mapping[str, tuple[int, int]], *,
          on_device: bool) -> Plan:
    """The plan of a staged model, perhaps for a device of its own; the libraries are still missing.

    Raises:
        UnsupportedOperatorError: nothing runs a node at sizes that only the run tells.

    """
    names = dict(zip(model.graph.inputs, input_names(model), strict=True))
    plan = Plan({
        "inputs": [{"name": name, "value": value.name, "dtype": element_name(value),
                    "shape": [_size(size) for size in symbols.shapes[value]]} for value, name in names.items()],
        "outputs": [{"name": name, "value": value.name, "shape": _described(value, symbols)}
                    for value, name in zip(model.graph.outputs, output_names(model), strict=True)],
        "limits": {name: list(limit) for name, limit in limits.items()}, "constants": {}, "sizes": {}, "steps": [],
        "quotients": [[name, terms_of(size), by] for name, (size, by) in symbols.quotients.items()]})
    when = guards(model.graph)
    plan.stages = kept = _live(model, stages, symbols, when)
    for stage in kept:
        first = len(plan.fields["steps"])
        plan.numbers.append(first)
        if isinstance(stage, RowStage):
            _rows(plan, stage, symbols)
        elif is_select(stage):
            _select(plan, stage)
        else:
            _node(plan, stage, model.graph.opset_imports, on_device=on_device)
        for step in plan.fields["steps"][first:]:
            step["when"] += [[value.name, chosen] for value, chosen in guard_of(stage, when)]
    made = {value for stage in kept for value in stage.outputs} | set(model.graph.inputs)
    conditions = (value for stage in kept for value, _ in guard_of(stage, when))
    for value in dict.fromkeys((*(value for stage in kept for value in _read(stage)), *conditions,
                                *model.graph.outputs)):
        if value not in made:
            _given(plan, value, symbols)
    plan.fields["halves"] = {value.name: element_name(value) for stage in kept for value in stage.outputs
                             if value.dtype in NARROW}
    return plan


def guard_of(stage: Stage, when: Mapping[ir.Node, Guard]) -> Guard:
    """When a stage is needed."""
    return when[stage.nodes[0] if isinstance(stage, RowStage) else stage]


def _live(model: ir.Model, stages: Sequence[Stage], symbols: Symbols, when: Mapping[ir.Node, Guard]) -> list[Stage]:
    """The stages that the outputs need, without nodes whose results are sizes."""
    needed = {value for value in model.graph.outputs if known_data(value, symbols) is None}
    kept: list[Stage] = []
    for stage in reversed(stages):
        if needed.isdisjoint(stage.outputs):
            continue
        kept.append(stage)
        needed.update(value for value in _read(stage) if known_data(value, symbols) is None)
        needed.update(value for value, _ in guard_of(stage, when))
    return kept[::-1]


def _read(stage: Stage) -> list[ir.Value]:
    return list(stage.inputs) if isinstance(stage, RowStage) else list(read_by(stage))


def _given(plan: Plan, value: ir.Value, symbols: Symbols) -> None:
    """A value that no step makes: a constant, or integers that follow from sizes."""
    if (array := constant(value)) is not None:
        plan.fields["constants"][value.name] = plan.array(array)
    elif (data := symbols.data.get(value)) is not None:
        plan.fields["sizes"][value.name] = {"dtype": element_name(value), "rank": len(symbols.shapes[value]),
                                            "terms": [terms_of(size) for size in data]}


def terms_of(size: Size) -> list[list[Any]]:
    """A size in JSON's types."""
    return [[factor, *names] for names, factor in size.terms]


def _size(size: Size) -> int | str | list[Any]:
    """A dimension of an input: a number, a symbol, or the terms of a sum."""
    if size.number is not None:
        return size.number
    return str(size) if str(size) in size.symbols else terms_of(size)


def _described(value: ir.Value, symbols: Symbols) -> list[int | str]:
    """A shape as a session tells it."""
    return [size.number if size.number is not None else str(size) if size.known else "?"
            for size in symbols.shapes.get(value, ())]


def element_name(value: ir.Value) -> str:
    """The name of a value's element type."""
    return "float32" if value.dtype is None else value.dtype.numpy().name


def _rows(plan: Plan, stage: RowStage, symbols: Symbols) -> None:
    """A call of a stage, which gives rows in the dimensions of its first input; some outputs take others."""
    number = sum(step["op"] == "rows" for step in plan.fields["steps"])
    others = {value: f"{value.name}.rows" for value in stage.outputs
              if leading(symbols.shapes[value]) != stage.rows.lead}
    plan.step("rows", [value.name for value in stage.inputs],
              [others.get(value, value.name) for value in stage.outputs],
              number=number, rank=stage.rows.rank, lead=[terms_of(size) for size in stage.rows.lead],
              given=[{"dtype": _stored(value), "shape": _own(value, symbols),
                      "whole": not leading(symbols.shapes[value])} for value in stage.inputs],
              made=[{"dtype": _stored(value), "shape": _own(value, symbols)} for value in stage.outputs])
    for value, name in others.items():
        plan.fields["sizes"][f"{name}.shape"] = {"dtype": "int64", "rank": 1,
                                                 "terms": [terms_of(size) for size in symbols.shapes[value]]}
        plan.step("Reshape", [name, f"{name}.shape"], [value.name], attributes={"allowzero": 1})


def _stored(value: ir.Value) -> str:
    """The name of the element type that a value is stored in between stages."""
    return HALF.get(value) or element_name(value)


def _own(value: ir.Value, symbols: Symbols) -> list[int]:
    """The dimensions of a row."""
    shape = symbols.shapes[value]
    return [size.number or 0 for size in shape[len(leading(shape)):]]


def _select(plan: Plan, node: ir.Node) -> None:
    """The results of either branch under one name: two steps, of which one is skipped."""
    condition, *results = (value.name for value in node.inputs if value is not None)
    for chosen, name in zip((True, False), results, strict=True):
        plan.step("Identity", [name], [node.outputs[0].name], attributes={}, when=[[condition, chosen]])


def _node(plan: Plan, node: ir.Node, opsets: Mapping[str, int], *, on_device: bool) -> None:
    """A node that numpy runs, or ONNX's reference where there is no function for it."""
    inputs = [None if value is None else value.name for value in node.inputs]
    outputs = [value.name for value in node.outputs]
    more = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    key = node.op_type if not node.domain else f"{node.domain}::{node.op_type}"
    if node.op_type == ATTENTION:
        _attention(plan, node, inputs, outputs)
        return
    if node.op_type == ROTARY:
        _rotary(plan, node, inputs, outputs)
        return
    if key == f"{SIZED_DOMAIN}::{RECURRENCE}":
        *_, hidden = node.attributes["weight"].as_tensor().shape.numpy()
        given = [*inputs, None, None, None][:4]
        plan.step("recurrence", given, outputs, number=len(plan.recurrences), hidden=hidden)
        plan.recurrences.append(node)
        return
    if node.domain == SIZED_DOMAIN and node.op_type in WINDOWS:
        _windows(plan, node, inputs, outputs)
        return
    if node.op_type == SUPPRESSION and not node.domain and not on_device:  # none of which has a kernel
        plan.suppresses = True
        plan.step("suppression", [*inputs, None, None, None][:5], outputs,
                  centred=bool(node.attributes.get_int("center_point_box", 0)))
        return
    if grows(node):
        key = "append"
    if (key in OPERATORS or key == "append") and not (more and node.op_type in SINGLE) and opsets.get(
            "", 0) >= SINCE and _has_plain_codes(node):
        attributes = {name: _attribute(each) for name, each in node.attributes.items() if isinstance(each, ir.Attr)}
        if node.op_type == "Split":
            attributes.setdefault("num_outputs", len(outputs))
        plan.step(key, inputs, outputs, attributes=attributes)
        return
    if node.domain:
        raise UnsupportedOperatorError(f"node '{node.name}' ({node.domain}::{node.op_type}) has sizes that only the "
                                       "run tells, and nothing runs it then; give its dimensions sizes with "
                                       "dims or shapes")
    read = list(dict.fromkeys(read_by(node)))
    proto = _single(node, read, opsets)
    plan.interpreted.append(node)
    plan.step("onnx", [value.name for value in read], [name for name in outputs if name],
              model=plan.array(np.frombuffer(proto, np.uint8)))


def _has_plain_codes(node: ir.Node) -> bool:
    """Whether codes are integers of whole bytes with scales by tensor or axis, as numpy computes them."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return True
    codes = node.outputs[0] if node.op_type == "QuantizeLinear" else operand(node, 0)
    return codes.dtype in PLAIN and not node.attributes.get_int("block_size", 0) and (
        operand(node, 1).dtype == ir.DataType.FLOAT)


PLAIN = (ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16, ir.DataType.INT32)
"""Element types of codes that numpy has."""


def grows(node: ir.Node) -> bool:
    """Whether a Concat appends to an input what becomes an output: a cache."""
    first = node.inputs[0] if node.inputs else None
    return (node.op_type == "Concat" and first is not None and first.is_graph_input()
            and _becomes_output(node.outputs[0]) and node.attributes.get_int("axis", 0) != 0)


def _becomes_output(value: ir.Value) -> bool:
    """Whether a value is an output, perhaps of one branch."""
    return value.is_graph_output() or any(is_select(use.node) and _becomes_output(use.node.outputs[0])
                                          for use in value.uses())


def _attention(plan: Plan, node: ir.Node, inputs: Sequence[str | None], outputs: Sequence[str | None]) -> None:
    """A call of the kernel of attention; kernels are known by their parameters."""
    depth, width = (node.attributes.get_int(name, 0) or 0 for name in ("depth", "width"))
    params = Attention(depth, width, node.attributes.get_float("scale", 1.0) or 1.0,
                       tuple(node.attributes.get_strings("steps", ()) or ()))
    masked = bool([*inputs, None][3])
    known = [each._replace(masked=None) for each in plan.attentions]
    if params not in known:
        known.append(params)
        plan.attentions.append(params._replace(masked=masked))
    number = known.index(params)
    if plan.attentions[number].masked != masked:
        plan.attentions[number] = params
    plan.step("attention", inputs, outputs, kernel=number)


def _windows(plan: Plan, node: ir.Node, inputs: Sequence[str | None], outputs: Sequence[str | None]) -> None:
    """A call of a kernel of windows."""
    attributes = {name: _attribute(each) for name, each in node.attributes.items() if isinstance(each, ir.Attr)}
    if node.op_type in CONVOLUTIONS:
        own = {name: attributes.pop(name) for name in Convolution._fields if name in attributes}
        params = Convolution(node.op_type, **own, residual=len(inputs) > 2)
        if params not in plan.convolutions:
            plan.convolutions.append(params)
        plan.step("windows", inputs, outputs, kind=node.op_type, kernel=plan.convolutions.index(params),
                  attributes=attributes)
        return
    kind = IM2COL if node.op_type == "PixelShuffle" else node.op_type
    if kind not in plan.windows:
        plan.windows.append(kind)
    plan.step("windows", inputs, outputs, kind=node.op_type, attributes=attributes)


def _rotary(plan: Plan, node: ir.Node, inputs: Sequence[str | None], outputs: Sequence[str | None]) -> None:
    """A call of the kernel of rotations."""
    params = node.attributes.get_int("depth", 0) or 0, bool(node.attributes.get_int("both", 0))
    if params not in plan.rotations:
        plan.rotations.append(params)
    plan.step("rotary", inputs, outputs, kernel=plan.rotations.index(params))


SINCE = 13
"""The opset from which on axes are inputs and Softmax has one, as the functions on numpy take them."""


def _attribute(attribute: ir.Attr) -> Any:
    """An attribute in JSON's types; element types by numpy's names."""
    if attribute.type == ir.AttributeType.TENSOR:
        array = attribute.as_tensor().numpy()
        return {"dtype": array.dtype.name, "values": array.reshape(-1).tolist()}
    if attribute.name == "to":
        return ir.DataType(attribute.as_int()).numpy().name
    value = attribute.value
    return list(value) if isinstance(value, tuple | list) else value


def _single(node: ir.Node, read: Sequence[ir.Value], opsets: Mapping[str, int]) -> bytes:
    """A model of one node."""
    graph = onnx.GraphProto(name="node")
    graph.node.append(ir.to_proto(node))
    for value in read:
        graph.input.append(onnx.helper.make_tensor_value_info(str(value.name), _element(value), None))
    for value in node.outputs:
        if value.name:
            graph.output.append(onnx.helper.make_tensor_value_info(value.name, _element(value), None))
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    made: bytes = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString(
        deterministic=True)
    return made


def _element(value: ir.Value) -> int:
    return int(ir.DataType.FLOAT if value.dtype is None else value.dtype)
