"""What a lowering for CUDA may use: activations in half precision around the tensor cores, float32 elsewhere.

Tensor cores read and write the half-precision type of the model (float16 or bfloat16). A value that comes from them,
depends on one that does, or goes into them is stored so; everything else, masks and coordinates above all, stays
float32. ONNX's operators compute in float32 in any case: `tensor` widens what is stored narrow and `bind` narrows it
again, and Relax fuses both into the operator's kernel.

An image is stored with its channels last, (batch, *spatial, channels), when a convolution has computed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import onnx_ir as ir
from tvm import relax, tirx

from sparsec.backends.relax.context import HAND_WRITTEN, OPAQUE, LoweringContext
from sparsec.graph.annotations import HALF
from sparsec.graph.nodes import optional
from sparsec.graph.operators.schema import DOMAIN
from sparsec.kernels.cuda.codes import Codes
from sparsec.kernels.cuda.key_lists import ListParams

PRODUCTS = {"Conv": (0, 3), "MatMul": (0, 3), "Attention": (0, 1, 2)}
"""sparsec's operators that run on tensor cores, each with the inputs that it reads in half precision."""


@dataclass
class CudaContext(LoweringContext):
    """The state of one lowering for CUDA.

    Attributes:
        half: "float16" or "bfloat16".
        narrow: the values that are stored in half precision.
        channels_last: the images among the bound values whose channels come last.
        lists: by mask and size of blocks the lists of the keys that it shows.
        coded: the codes of 8 bits that kernels have made of values, by what they stand for; those of images with their
            channels last are apart.
        moving: the node moves elements and computes nothing, so that halves stay as they are.

    """

    half: str = "float16"
    narrow: frozenset[ir.Value] = frozenset()
    channels_last: set[ir.Value] = field(default_factory=set)
    lists: dict[ir.Value, dict[ListParams, relax.Expr]] = field(default_factory=dict)
    coded: dict[tuple[ir.Value, Codes, bool], relax.Expr] = field(default_factory=dict)
    moving: bool = False
    _halves: dict[ir.Value, relax.Expr] = field(default_factory=dict)

    def sibling(self) -> Self:
        """A context for another function of the same module."""
        own = super().sibling()
        own.channels_last, own.lists, own.coded, own._halves = set(), {}, {}, {}  # noqa: SLF001 - of this class
        return own

    def given(self, value: ir.Value) -> str:
        """What other stages compute arrives in half precision."""
        return HALF.get(value) or super().given(value)

    def launch(self, prim_func: tirx.PrimFunc, args: Sequence[relax.Expr], outputs: Sequence[tuple[int, str]],
               name: str = "product") -> relax.Expr:
        """Run a GPU kernel on flat buffers; returns the last of its outputs, given as (length, dtype)."""
        return self.launch_all(prim_func, args, outputs, name)[-1]

    def launch_all(self, prim_func: tirx.PrimFunc, args: Sequence[relax.Expr], outputs: Sequence[tuple[int, str]],
                   name: str) -> list[relax.Expr]:
        """`launch`, with all of the outputs."""
        if id(prim_func) not in self._functions:
            private = prim_func.with_attr({"op_pattern": OPAQUE, HAND_WRITTEN: True})
            self._functions[id(prim_func)] = (prim_func, self.bb.add_func(private, name))
        function = self._functions[id(prim_func)][1]
        self.calls.append((function.name_hint, self.node.name or "" if self.node is not None else ""))
        types = [relax.TensorType((length,), dtype) for length, dtype in outputs]
        result = self.bb.emit(relax.call_tir(function, list(args), types if len(types) > 1 else types[0]))
        if len(types) == 1:
            return [result]
        return [self.bb.emit(relax.TupleGetItem(result, index)) for index in range(len(types))]

    def bind(self, value: ir.Value, expr: relax.Expr) -> None:
        """Record the expression of a value, in half precision if it is stored so."""
        if value in self.narrow and dtype_of(expr) == "float32":
            expr = self.bb.emit(relax.op.astype(expr, self.half))
        self.channels_last.discard(value)
        self._halves.pop(value, None)
        super().bind(value, expr)

    def bind_image(self, value: ir.Value, expr: relax.Expr) -> None:
        """Record an image whose channels come last."""
        self.bind(value, expr)
        self.channels_last.add(value)

    def stored(self, value: ir.Value | None, shape: Sequence[int]) -> relax.Expr:
        """A value in half precision, reshaped."""
        assert value is not None
        if value not in self._halves:
            channels_first = value in self.env and value not in self.channels_last
            expr = self.env[value] if channels_first else self.tensor(value)
            same = dtype_of(expr) == self.half
            self._halves[value] = expr if same else self.bb.emit(relax.op.astype(expr, self.half))
        return self.reshaped(self._halves[value], shape)

    def image(self, value: ir.Value | None) -> relax.Expr:
        """An image in half precision with its channels last, (batch, *spatial, channels)."""
        assert value is not None
        batch, channels, *spatial = self.shape(value)
        if value in self.channels_last:
            return self.reshaped(self.env[value], (batch, *spatial, channels))
        axes = [0, *range(2, 2 + len(spatial)), 1]
        return self.bb.emit(relax.op.permute_dims(self.stored(value, self.shape(value)), axes))

    def reshaped(self, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """The expression with another shape, which Relax makes a view of."""
        same = tuple(int(dim) for dim in expr.ty.shape) == tuple(shape)
        return expr if same else self.bb.emit(relax.op.reshape(expr, tuple(shape)))

    def _view(self, value: ir.Value, shape: tuple[int, ...]) -> relax.Expr:
        """The value in float32 with its channels first, however it is stored; as it is stored while elements move."""
        if self.moving and value in self.env:
            return self.reshaped(self._first(value) if value in self.channels_last else self.env[value], shape)
        wanted = self._views.setdefault(value, {})
        if shape not in wanted:
            if value not in self.env:
                return super()._view(value, shape)
            expr = self._first(value) if value in self.channels_last else self.env[value]
            if dtype_of(expr) == self.half and value.dtype in (None, ir.DataType.FLOAT):
                expr = self.bb.emit(relax.op.astype(expr, "float32"))
            wanted[shape] = self.reshaped(expr, shape)
        return wanted[shape]

    def _first(self, value: ir.Value) -> relax.Expr:
        """An image with its channels moved from the last place to the second."""
        rank = len(self.shape(value))
        return self.bb.emit(relax.op.permute_dims(self.image(value), [0, rank - 1, *range(1, rank - 1)]))


def dtype_of(expr: relax.Expr) -> str:
    """The element type that Relax has inferred."""
    return str(expr.ty.dtype)


def narrow_values(nodes: Iterable[ir.Node], arriving: Iterable[ir.Value] = ()) -> frozenset[ir.Value]:
    """The float32 values of sorted nodes that come from tensor cores, depend on those, or go into them.

    Values that arrive in half precision are such, too.
    """
    narrow: set[ir.Value] = set(arriving)
    for node in nodes:
        read = PRODUCTS.get(node.op_type, ()) if node.domain == DOMAIN else ()
        values = [node.inputs[index] for index in read if index < len(node.inputs)]
        if read or not narrow.isdisjoint(node.inputs):
            values += node.outputs
        narrow.update(value for value in values if value is not None and value.producer() is not None
                      and value.dtype == ir.DataType.FLOAT)
    return frozenset(value for value in narrow if not is_only_output(value))


def is_only_output(value: ir.Value) -> bool:
    """Whether the model returns what a node computes and no other node reads it, so that it is never stored narrow."""
    node = value.producer()
    made = node is not None and (node.op_type == "LayerNormalization" or (
        node.domain == DOMAIN and node.op_type == "MatMul" and optional(node, 3) is None))
    return made and value.is_graph_output() and not value.uses() and HALF.get(value) is None
