"""One token of one text at a time, as decoders generate: the row stages and the attention between them as one function.

Between two stages a session would otherwise run a dozen steps of Python, which take longer than the kernels of small
models do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.backends.chain import Call, Chain, External, Heads
from sparsec.compiler.sized.attention import ATTENTION
from sparsec.compiler.sized.plan import element_name, grows, guard_of, terms_of
from sparsec.compiler.sized.rotary import ROTARY
from sparsec.compiler.sized.stage import RowStage, Stage
from sparsec.graph.guards import ALWAYS, Guard, guards, is_select
from sparsec.graph.nodes import operand, optional, read_by
from sparsec.graph.sized import APPEND, CACHE_SIZES

MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"}
"""What leaves the elements of one token in order; of transposes those of `SWAPPED`, and others by `keeps_order`."""
SWAPPED = [0, 2, 1, 3]


@dataclass(frozen=True)
class Token:
    """The function, and what a session has to know to call it.

    Attributes:
        chain: the function.
        before: the nodes whose results it is given.
        fields: in JSON's types: `ones`, the sizes that must be 1; `inputs` with their types; `caches` of every
            attention, with its `mask` where only the run tells whether that has a number for every key; `outputs` with
            their types.

    """

    chain: Chain
    before: tuple[ir.Node, ...]
    fields: dict[str, Any]


def token_of(graph: ir.Graph, stages: Sequence[Stage], symbols: Symbols) -> Token | None:
    """The function for one token of a staged graph, None where the graph has another form or no attention."""
    when = guards(graph)
    needs = [guard_of(stage, when) for stage in stages]
    chain, number = _Chain(symbols, dict(_branch(stages, needs))), -1
    for stage, guard in zip(stages, needs, strict=True):
        number += isinstance(stage, RowStage)
        if not guard <= set(chain.choices.items()):
            continue
        if isinstance(stage, RowStage):
            chain.rows(stage, number)
        elif stage.op_type == ATTENTION and ("steps" in stage.attributes or not chain.heads(stage)):
            return None
    usable = all(size.known and size.number in (None, 1) for size in chain.ones)
    return chain.finished(graph, stages) if chain.caches and usable else None


def _branch(stages: Sequence[Stage], needs: Sequence[Guard]) -> Guard:
    """When the first attention that appends to caches is needed."""
    for stage, guard in zip(stages, needs, strict=True):
        if isinstance(stage, ir.Node) and stage.op_type == ATTENTION and _cache(operand(stage, 1)) is not None:
            return guard
    return ALWAYS


@dataclass
class _Chain:
    """The function in the making.

    Attributes:
        symbols: of the graph.
        choices: the conditions of branches, and what they must be.
        made: the values that it makes.
        inputs, steps: what it takes, and does.
        caches: what a session does with the caches of every attention.
        appended: the nodes that append to them.
        ones: the sizes that must be 1.

    """

    symbols: Symbols
    choices: dict[ir.Value, bool]
    made: set[ir.Value] = field(default_factory=set)
    inputs: dict[str, External] = field(default_factory=dict)
    given: set[ir.Value] = field(default_factory=set)
    steps: list[Call | Heads] = field(default_factory=list)
    caches: list[dict[str, Any]] = field(default_factory=list)
    appended: set[ir.Node] = field(default_factory=set)
    ones: dict[Size, None] = field(default_factory=dict)

    def source(self, value: ir.Value) -> ir.Value:
        """The value of the function that has a value's elements, or the value itself where there is none."""
        value = at = self.chosen(value)
        while at not in self.made:
            node = at.producer()
            if node is None or node.domain or node.op_type not in MOVES or node.inputs[0] is None or (
                    node.op_type == "Transpose" and not self.keeps_order(node)):
                return value
            at = self.chosen(node.inputs[0])
        return at

    def keeps_order(self, transpose: ir.Node) -> bool:
        """Whether a Transpose of one token moves nothing but sizes of 1."""
        perm = list(transpose.attributes.get_ints("perm", []))
        shape = self.symbols.shapes[operand(transpose, 0)]
        wide = [axis for axis in perm if shape[axis].number != 1 and shape[axis] not in self.ones]
        return perm == SWAPPED or (bool(perm) and wide == sorted(wide))

    def chosen(self, value: ir.Value) -> ir.Value:
        """What a value is in the branch that is taken."""
        node = value.producer()
        while node is not None and is_select(node) and node.inputs[0] in self.choices:
            value = operand(node, 1 if self.choices[operand(node, 0)] else 2)
            node = value.producer()
        return value

    def name(self, value: ir.Value, shape: tuple[int, ...] | None) -> str:
        """The name of a value, which is an input of the function where that does not make it."""
        found = self.source(value)
        if found not in self.made:
            self.given.add(found)
            self.inputs[str(found.name)] = External(str(found.name), element_name(found), shape)
        return str(found.name)

    def rows(self, stage: RowStage, number: int) -> None:
        """A call of a stage for one row."""
        self.ones.update(dict.fromkeys(stage.rows.lead))
        rank = stage.rows.rank
        inputs = [self.name(value, (*[1] * rank, *[size.number or 0 for size in self.symbols.shapes[value][rank:]]))
                  for value in stage.inputs]
        self.made.update(stage.outputs)
        self.steps.append(Call(number, tuple(inputs), tuple(str(value.name) for value in stage.outputs)))

    def heads(self, node: ir.Node) -> bool:
        """Attention of one token; False where it is none that the kernel takes."""
        q, k, v = (self.symbols.shapes[operand(node, index)] for index in range(3))
        mask = optional(node, 3)
        if mask is not None and not self._is_row(mask, k):
            return False
        query, tables = _turned(operand(node, 0))
        sides = [_cache(operand(node, index)) for index in (1, 2)]
        if (sides[0] is None) != (sides[1] is None):
            return False
        key, own = (None, None) if sides[0] is None else _turned(operand(sides[0], 1))
        if tables is not None and own is not None and tables != own:
            return False
        self.ones.update(dict.fromkeys((q[0], q[2])))
        if sides[0] is not None:
            self.ones[self.symbols.shapes[operand(sides[0], 1)][2]] = None
        value = None if sides[1] is None else operand(sides[1], 1)
        self._add(node, (query, key, value), tables or own,
                  (tables is not None, own is not None), (q, k, v))
        self.caches.append(self._described(sides, [operand(node, index) for index in (1, 2)]))
        if mask is not None and self.symbols.shapes[mask][-1] != k[2]:
            self.caches[-1]["mask"] = self.name(mask, None)
        self.appended.update(each for each in sides if each is not None)
        self.given.update(each for side, each in zip(sides, node.inputs[1:3], strict=True) if side is None and each)
        return True

    def _described(self, sides: Sequence[ir.Node | None], whole: Sequence[ir.Value]) -> dict[str, Any]:
        """By "keys" and "values": where they come from, and what they become where something is appended."""
        return {kind: {"past": str(self.chosen(value if node is None else operand(node, 0)).name),
                       "present": None if node is None else self._result(node.outputs[0]),
                       "start": str(operand(node, 2).name) if node is not None and node.op_type == APPEND else None}
                for kind, node, value in zip(("keys", "values"), sides, whole, strict=True)}

    def _result(self, value: ir.Value) -> str:
        """The name of what a value is in the end: of the output that chooses between it and another branch's."""
        while select := next((use.node for use in value.uses() if is_select(use.node)), None):
            value = select.outputs[0]
        return str(value.name)

    def _is_row(self, mask: ir.Value, k: Shape) -> bool:
        """Whether a mask is the same for all heads; that it has a number for every key, only the run may tell."""
        shape = self.symbols.shapes[mask]
        told = shape[-1] == k[2] or shape[-1].number is None
        return told and (len(shape) < 3 or shape[-3].number == 1)  # heads are the third from the end

    def _add(self, node: ir.Node, new: tuple[ir.Value, ir.Value | None, ir.Value | None], tables: _Tables | None,
             rotated: tuple[bool, bool], shapes: tuple[Shape, Shape, Shape]) -> None:
        """The step of an attention."""
        (_, heads, _, depth), (_, groups, *_), (*_, width) = ([size.number or 0 for size in shape] for shape in shapes)
        number, mask = len(self.caches), optional(node, 3)
        cos, sin = (None, None) if tables is None else (
            self.name(each, (depth if tables.both else depth // 2,)) for each in (tables.cos, tables.sin))
        told, keys, values = (f"{kind}.{number}" for kind in ("sizes", "keys", "values"))
        for each in (External(told, "int64", (len(CACHE_SIZES),)), External(keys, "float32", None),
                     External(values, "float32", None)):
            self.inputs[each.name] = each
        q, k, v = (None if value is None else self.name(value, (count,))
                   for value, count in zip(new, (heads * depth, groups * depth, groups * width), strict=True))
        self.steps.append(Heads(
            depth, width, node.attributes.get_float("scale", 1.0) or 1.0, heads, groups, rotated,
            tables is not None and tables.both, str(q), k, v, cos, sin, None if mask is None else self.name(mask, None),
            told, keys, values, str(node.outputs[0].name)))
        self.made.add(node.outputs[0])

    def finished(self, graph: ir.Graph, stages: Sequence[Stage]) -> Token | None:
        """The function, None where something else is computed from what it makes."""
        late = set(self.made)
        for stage in stages:
            other = isinstance(stage, ir.Node) and not is_select(stage) and stage not in self.appended
            if isinstance(stage, ir.Node) and other and not late.isdisjoint(read_by(stage)):
                late.update(stage.outputs)
        late.update(value for node in self.appended for value in node.outputs)
        ends = [self.source(value) for value in graph.outputs]
        caches = {value for node in self.appended for value in node.outputs}
        own = {end: value for end, value in zip(ends, graph.outputs, strict=True) if end in self.made}
        known = all(size.known for value in own.values() for size in self.symbols.shapes[value])
        if any(value in late and value not in own and value not in caches for value in ends) or (
                not late.isdisjoint(self.given)) or not known or len(own) < sum(end in self.made for end in ends):
            return None
        needed = {*self.given, *self.choices, *(value for value in ends if value not in late),
                  *(operand(node, index) for node in self.appended for index in (0, 2) if index < len(node.inputs))}
        before = []
        for stage in reversed(stages):
            if isinstance(stage, ir.Node) and not needed.isdisjoint(stage.outputs):
                before.append(stage)
                needed.update(read_by(stage))
        chain = Chain(tuple(self.inputs.values()), tuple(self.steps), tuple(str(end.name) for end in own))
        return Token(chain, tuple(before[::-1]), {
            "ones": [terms_of(size) for size in self.ones if size.number != 1], "caches": self.caches,
            "inputs": [{"name": each.name, "dtype": each.dtype, "shape": each.shape} for each in self.inputs.values()],
            "outputs": [{"name": value.name, "dtype": element_name(value),
                         "shape": [terms_of(size) for size in self.symbols.shapes[value]]} for value in own.values()],
            "when": [[value.name, chosen] for value, chosen in self.choices.items()],
            "depth": max(step.depth for step in self.steps if isinstance(step, Heads))})


@dataclass(frozen=True)
class _Tables:
    """What rotates, and whether it has angles for both halves of the features."""

    cos: ir.Value
    sin: ir.Value
    both: bool


def _turned(value: ir.Value) -> tuple[ir.Value, _Tables | None]:
    """What a rotation has rotated, and by what; the value itself where there is none."""
    node = value.producer()
    if node is None or node.op_type != ROTARY:
        return value, None
    x, cos, sin = (operand(node, index) for index in range(3))
    return x, _Tables(cos, sin, bool(node.attributes.get_int("both", 0)))


def _cache(value: ir.Value) -> ir.Node | None:
    """The node that appends one token to a cache, if that is what a value is."""
    node = value.producer()
    if node is None or not (grows(node) or node.op_type == APPEND):
        return None
    return node if node.op_type == APPEND or len(node.inputs) == 2 else None
