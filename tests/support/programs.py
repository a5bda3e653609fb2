"""Small compiled programs for the tests of artifacts and sessions, without a model behind them."""

import functools

import numpy as np
from tvm import relax
from tvm.script import tirx as T

from sparsec.artifact.file import Artifact
from sparsec.backends.cpu.build import build
from sparsec.backends.program import TensorSpec
from sparsec.backends.relax.lower import Lowered
from sparsec.target import resolve

OFFSET = np.arange(15, dtype=np.float32).reshape(3, 5)


@functools.cache
def signature_artifact(target="cpu"):
    """(x: float32 (3, 5), k: int64 (2,), m: bool ()) -> (x + OFFSET, k, not m, x reshaped, OFFSET)."""
    inputs = TensorSpec("x", "float32", (3, 5)), TensorSpec("k", "int64", (2,)), TensorSpec("m", "bool", ())
    outputs = (TensorSpec("sum", "float32", (3, 5)), TensorSpec("k_out", "int64", (2,)), TensorSpec("not", "bool", ()),
               TensorSpec("reshaped", "float32", (5, 3)), TensorSpec("constant", "float32", (3, 5)))

    def body(_bb, x, k, m, c):
        return [relax.op.add(x, c), relax.op.multiply(k, relax.const(1, "int64")), relax.op.logical_not(m),
                relax.op.reshape(x, (5, 3)), c]

    return _artifact(inputs, outputs, [OFFSET], body, target)


@functools.cache
def parallel_artifact(threads=2):
    """x: float32 (64,) -> 2 x, and which thread computed each element: int32 (64,)."""
    @T.prim_func(s_tir=True)
    def double(X: T.Buffer((64,), "float32"), Y: T.Buffer((64,), "float32"), thread: T.Buffer((64,), "int32")):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("root"):
            T.reads()
            T.writes()
            for i in T.parallel(64):
                Y[i] = X[i] * T.float32(2)
                thread[i] = T.call_extern("int32", "gettid")

    inputs = (TensorSpec("x", "float32", (64,)),)
    outputs = TensorSpec("y", "float32", (64,)), TensorSpec("thread", "int32", (64,))

    def body(bb, x):
        types = [relax.TensorType(spec.shape, spec.dtype) for spec in outputs]
        pair = bb.emit(relax.call_tir(bb.add_func(double, "double"), [x], types))
        return [relax.TupleGetItem(pair, 0), relax.TupleGetItem(pair, 1)]

    return _artifact(inputs, outputs, [], body, "cpu", threads)


def _artifact(inputs, outputs, constants, body, target, threads=1):
    bb = relax.BlockBuilder()
    specs = [*inputs, *(TensorSpec("constant", c.dtype.name, c.shape) for c in constants)]
    params = [relax.Var(f"p{i}", relax.TensorType(spec.shape, spec.dtype)) for i, spec in enumerate(specs)]
    with bb.function("main", params):
        with bb.dataflow():
            results = [r if isinstance(r, relax.Var) else bb.emit(r) for r in body(bb, *params)]
            result = bb.emit_output(relax.Tuple(results))
        bb.emit_func_output(result)
    lowered = Lowered(module=bb.get(), target=resolve(target), threads=threads, constants=tuple(constants),
                      inputs=inputs, outputs=outputs, calls=())
    return Artifact.build(build(lowered), resolve(target), threads, b"graph", {"layers": []})
