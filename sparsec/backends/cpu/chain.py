"""The function of one token through a decoder, in Relax: calls of the parts' functions and of the kernel of heads."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from sparsec.backends.chain import WORK, Chain, Heads
from sparsec.backends.relax.context import LoweringContext
from sparsec.kernels.cpu.tensors import sized_heads
from sparsec.kernels.cpu.tensors.sized_attention import SizedAttention
from sparsec.kernels.cpu.tensors.sized_heads import SizedHeads
from sparsec.machine.memory import carrier

Constants = Mapping[relax.Var, np.ndarray]

NAME = "token"
_built = functools.cache(sized_heads.build)


def emit_chain(context: LoweringContext, chain: Chain, parts: Sequence[tuple[str, Constants]],
               ) -> tuple[str, int, tuple[np.ndarray, ...]]:
    """Add the function to the module.

    Args:
        context: of the module that has the parts' functions.
        chain: what it does.
        parts: of every part the name of its function and the constants that this takes behind its inputs.

    Returns:
        Its name, how many inputs it takes, and the constants behind them.

    """
    values = {each.name: relax.Var(f"input_{index}", _type(each.shape, each.dtype))
              for index, each in enumerate(chain.inputs)}
    values[WORK] = relax.Var(WORK, _type(None, "float32"))
    given, shared = list(values.values()), _shared(parts)
    with context.bb.function(NAME):
        with context.bb.dataflow():
            for step in chain.steps:
                if isinstance(step, Heads):
                    values[step.output] = _heads(context, step, values)
                else:
                    name, constants = parts[step.part]
                    results = _called(context, name, [values[each] for each in step.inputs],
                                      [shared[id(array)] for array in constants.values()])
                    values.update({each: context.bb.emit(relax.TupleGetItem(results, index))
                                   for index, each in enumerate(step.outputs)})
            outputs = context.bb.emit_output(relax.Tuple([values[each] for each in chain.outputs]))
        context.bb.emit_func_output(outputs, [*given, *dict.fromkeys(shared.values())])
    arrays = {id(array): array for _, constants in parts for array in constants.values()}
    return NAME, len(given), tuple(arrays.values())


def _shared(parts: Sequence[tuple[str, Constants]]) -> dict[int, relax.Var]:
    """Parameters for the constants of all parts, by the array's identity."""
    found: dict[int, relax.Var] = {}
    for _, constants in parts:
        for variable, array in constants.items():
            found.setdefault(id(array), relax.Var(f"constant_{len(found)}", variable.ty))
    return found


def _called(context: LoweringContext, name: str, values: Sequence[relax.Expr], constants: Sequence[relax.Var],
            ) -> relax.Expr:
    """The results of a part's function for values of its inputs' sizes."""
    function = context.bb.get().get_global_var(name)
    inputs = context.bb.get()[function].params[:len(values)]
    given = [_shaped(context, *pair) for pair in zip(values, inputs, strict=True)]
    return context.bb.emit(relax.Call(function, [*given, *constants]))


def _type(shape: tuple[int, ...] | None, dtype: str) -> relax.TensorType:
    """The type of an array, or of a flat one of a length that the run tells."""
    return relax.TensorType((tvm.tirx.Var("length", "int64"),) if shape is None else shape, carrier(dtype))


def _shaped(context: LoweringContext, value: relax.Expr, like: relax.Var) -> relax.Expr:
    """A value in the shape of a parameter."""
    if [int(dim) for dim in value.ty.shape] == [int(dim) for dim in like.ty.shape]:
        return value
    return context.bb.emit(relax.op.reshape(value, like.ty.shape))


def _heads(context: LoweringContext, h: Heads, values: Mapping[str, relax.Expr]) -> relax.Expr:
    params = SizedHeads(SizedAttention(h.depth, h.width, h.scale), h.heads, h.groups, h.rotated, h.both,
                        masked=h.mask is not None, appends=h.k is not None)
    names = {"q": h.q, "new_k": h.k, "new_v": h.v, "cos": h.cos, "sin": h.sin, "mask": h.mask, "k": h.keys,
             "v": h.values, "work": WORK}
    given = [values[h.sizes]]
    for name, length in params.arguments.items():
        value = values[str(names[name])]
        given.append(value if length is None else context.bb.emit(relax.op.reshape(value, (length,))))
    return context.call(_built(params, context.isa), given, h.heads * h.width)
