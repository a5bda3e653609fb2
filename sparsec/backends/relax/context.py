"""What a lowering may use: the Relax function under construction and the expressions of the graph's values.

Physical convention: a value in a layout other than `Plain` is one flat tensor of `layout.size` elements of its `dtype`;
a `Plain` value is a tensor of its ONNX shape. Kernels take flat buffers; `flat` and `tensor` go from one view to the
other without a copy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.large import SMALL_BYTES, Stored, key_of, stored
from sparsec.graph.layout import LAYOUT, PLAIN, Layout, Plain
from sparsec.graph.shapes import static_shape
from sparsec.kernels.emit.isa import Isa
from sparsec.machine.memory import carrier
from sparsec.target import Target

EMBEDDED = 1024  # elements up to which a constant is compiled in, where Relax can fold it
HAND_WRITTEN = "sparsec.hand_written"  # attribute of kernels that bring their own schedule
OPAQUE = 8  # TOpPattern::kOpaque: Relax fuses nothing into the kernel

Builders = Mapping[type, Callable[..., tirx.PrimFunc]]
"""By the class of a kernel's parameters what builds it from (parameters, isa): flat buffers, the outputs last."""

KERNEL = "sparsec_kernel"
"""What the names of kernels begin with that have none."""


@dataclass(frozen=True)
class Range:
    """What a tensor ranges over, as a kernel keeps it beside the tensor.

    Attributes:
        ends: float32, by part a vector of the least elements and one of the largest, 0 among both.
        parts: how many.
        interleaved: the tensor lies in the order of `kernels.emit.codes`, for nothing but codes are made of it.

    """

    ends: relax.Expr
    parts: int
    interleaved: bool


@dataclass
class LoweringContext:
    """The state of one lowering; see the module's docstring for what `env` holds.

    Attributes:
        bb: the builder of `main`, inside a dataflow block.
        isa: what kernels may assume of the processor.
        target: what the model is compiled for.
        lower_node: binds the outputs of a node; for operators that contain or become other nodes.
        kernels: what builds the backend's kernels of tensors without weights, by the class of their parameters, which
            `kernels.tensors` has.
        precision: the fewest bits that operators may compute with, a key of `sparsec.cost.precisions.PRECISIONS`.
        env: the expression of every value that has been lowered, as it was bound (flat or in its ONNX shape).
        arrays: contents of the values that are known at compile time beside the initializers.
        ranges: of tensors that a DynamicQuantizeLinear reads.
        constants: runtime constants so far, by the parameter of `main` that receives each.
        node: the node that is being lowered.
        calls: every call of a kernel so far: its function's name and the node's.
        streams: constants are kept in temporary files, as those of large models are.

    """

    bb: relax.BlockBuilder
    isa: Isa
    target: Target
    lower_node: Callable[[LoweringContext, ir.Node], None]
    kernels: Builders = field(default_factory=dict)
    precision: str = "fp32"
    env: dict[ir.Value, relax.Expr] = field(default_factory=dict)
    arrays: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    ranges: dict[ir.Value, Range] = field(default_factory=dict)
    constants: dict[relax.Var, np.ndarray] = field(default_factory=dict)
    node: ir.Node | None = None
    calls: list[tuple[str, str]] = field(default_factory=list)
    streams: bool = False
    _by_digest: dict[bytes, relax.Var] = field(default_factory=dict)
    _functions: dict[int, tuple[tirx.PrimFunc, relax.GlobalVar]] = field(default_factory=dict)
    _views: dict[ir.Value, dict[tuple[int, ...], relax.Expr]] = field(default_factory=dict)

    def sibling(self) -> Self:
        """A context for another function of the same module, which shares the kernels."""
        return replace(self, env={}, arrays={}, ranges={}, constants={}, node=None, calls=[], _by_digest={}, _views={})

    def layout(self, value: ir.Value | None) -> Layout:
        """Where the layout pass put a value."""
        return LAYOUT.get(_present(value)) or PLAIN

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """The static ONNX shape of a value.

        Raises:
            UnsupportedOperatorError: a dimension is unknown at compile time.

        """
        value = _present(value)
        shape = static_shape(value)
        if shape is None:
            raise UnsupportedOperatorError(f"the shape of '{value.name}' is {value.shape}, not static")
        return shape

    def dtype(self, value: ir.Value | None) -> str:
        """The numpy name of a value's element type.

        Raises:
            UnsupportedOperatorError: it is unknown, or the value is no tensor.

        """
        value = _present(value)
        if value.dtype is None or not isinstance(value.type, ir.TensorType):
            raise UnsupportedOperatorError(f"'{value.name}' is not a tensor of a known element type")
        return value.dtype.numpy().name

    def given(self, value: ir.Value) -> str:
        """The element type that an input of a function arrives in."""
        return carrier(self.dtype(value))

    def constant(self, array: np.ndarray) -> relax.Expr:
        """A runtime constant: a parameter of `main` that the program's `constants` fill; equal arrays share one."""
        array = self.keep(array)
        key = key_of(array)
        if key not in self._by_digest:
            array = array if isinstance(array, Stored) else np.array(array, order="C", copy=None)
            var = relax.Var(f"constant_{len(self.constants)}", relax.TensorType(array.shape, array.dtype.name))
            self._by_digest[key] = var
            self.constants[var] = array
        return self._by_digest[key]

    @property
    def keep(self) -> Callable[[np.ndarray], np.ndarray]:
        """What puts an array where constants are kept: in memory, or in a temporary file."""
        return _in_file if self.streams else np.asanyarray

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """The value's contents where they are known at compile time; None for an absent value, too."""
        if value is None:
            return None
        return self.arrays.get(value) if value.const_value is None else value.const_value.numpy()

    def call(self, prim_func: tirx.PrimFunc, args: Sequence[relax.Expr], *sizes: int,
             dtype: str = "float32") -> relax.Expr:
        """Run a kernel on flat buffers; its last `len(sizes)` parameters are the outputs, flat buffers of these sizes.

        Returns one tensor, or for several sizes a tuple expression to be indexed. A PrimFunc enters the module once
        however often the same object is called.
        """
        function = self._function(prim_func)
        types = [relax.TensorType((size,), dtype) for size in sizes]
        return self.bb.emit(relax.call_tir(function, list(args), types if len(types) > 1 else types[0]))

    def overwrite(self, prim_func: tirx.PrimFunc, args: Sequence[relax.Expr]) -> relax.Expr:
        """Run a kernel whose last argument is its output as well: a tensor of this function that nobody reads again."""
        return self.bb.emit(relax.call_tir_inplace(self._function(prim_func), list(args), len(args) - 1, args[-1].ty))

    def _function(self, prim_func: tirx.PrimFunc) -> relax.GlobalVar:
        """A kernel as a function of the module, where another call of it by the node is noted."""
        if id(prim_func) not in self._functions:
            name = str(prim_func.attrs["global_symbol"]) if "global_symbol" in prim_func.attrs else KERNEL
            private = prim_func.without_attr("global_symbol").with_attr({"op_pattern": OPAQUE, HAND_WRITTEN: True})
            self._functions[id(prim_func)] = (prim_func, self.bb.add_func(private, name))
        function = self._functions[id(prim_func)][1]
        self.calls.append((function.name_hint, self.node.name or "" if self.node is not None else ""))
        return function

    def run(self, params: Hashable, args: Sequence[relax.Expr], *sizes: int, dtype: str = "float32") -> relax.Expr:
        """`call` the backend's kernel with these parameters.

        Raises:
            UnsupportedOperatorError: it has none.

        """
        if type(params) not in self.kernels:
            raise UnsupportedOperatorError(f"target '{self.target.name}' has no kernel for it")
        return self.call(_built(self.kernels[type(params)], params, self.isa), args, *sizes, dtype=dtype)

    def bind(self, value: ir.Value, expr: relax.Expr) -> None:
        """Record the expression of a value: flat, or in its ONNX shape."""
        self.env[value] = expr
        self._views.pop(value, None)

    def know(self, value: ir.Value, array: np.ndarray) -> None:
        """Record a value's contents, known at compile time; its type follows."""
        self.arrays[value] = array
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)

    def forget(self, value: ir.Value) -> None:
        """Drop what is known of a value, which will be computed again."""
        self.env.pop(value, None)
        self.arrays.pop(value, None)
        self._views.pop(value, None)

    def flat(self, value: ir.Value | None) -> relax.Expr:
        """The value as one flat buffer, in its layout."""
        value = _present(value)
        if isinstance(self.layout(value), Plain):
            return self._view(value, (math.prod(self.shape(value)),))
        return self.env[value]

    def tensor(self, value: ir.Value | None) -> relax.Expr:
        """The value as a tensor of its ONNX shape; its layout must be `Plain`.

        Small constants are compiled in, but a single zero of floats: TVM takes 0 x for 0 whatever x is, x + 0 for x.
        """
        value = _present(value)
        if not isinstance(self.layout(value), Plain):
            raise UnsupportedOperatorError(f"'{value.name}' arrives in {self.layout(value)} without a Reformat")
        array = self.array(value)
        zero = array is not None and array.size == 1 and array.dtype.kind == "f" and not array.any()
        if value not in self.env and array is not None and 0 < array.size <= EMBEDDED and not zero:
            return relax.const(array, array.dtype.name)
        return self._view(value, self.shape(value))

    def transposed(self, tensor: relax.Expr) -> relax.Expr:
        """A tensor with its last two axes exchanged."""
        *lead, rows, columns = range(len(tensor.ty.shape))
        return self.bb.emit(relax.op.permute_dims(tensor, [*lead, columns, rows]))

    def _view(self, value: ir.Value, shape: tuple[int, ...]) -> relax.Expr:
        """The bound expression, or a constant, reshaped if it has not that shape yet; Relax makes a view of it."""
        if value not in self.env:
            array = self.array(value)
            if array is None:
                raise UnsupportedOperatorError(f"'{value.name}' is used before it is computed")
            return self.constant(array.reshape(shape))
        expr = self.env[value]
        if tuple(int(dim) for dim in expr.ty.shape) == shape:
            return expr
        views = self._views.setdefault(value, {})
        if shape not in views:
            views[shape] = self.bb.emit(relax.op.reshape(expr, shape))
        return views[shape]


def _in_file(array: np.ndarray) -> np.ndarray:
    return stored(array) if array.nbytes > SMALL_BYTES else array


@functools.cache
def _built(build: Callable[..., tirx.PrimFunc], params: Hashable, isa: Isa) -> tirx.PrimFunc:
    """The kernel for these parameters, once for all layers that share them."""
    return build(params, isa)


def _present(value: ir.Value | None) -> ir.Value:
    """The value of an input that an operator cannot do without."""
    if value is None:
        raise UnsupportedOperatorError("an input that it needs is absent")
    return value
