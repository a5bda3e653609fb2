"""Executes a lowered model without a GPU: TVM's passes schedule it, then every kernel call runs in the emulator."""

import numpy as np
from tvm import ir, relax

from sparsec.backends.cuda.build import scheduling, settings
from tests.support.cuda.emulator import launches


def scheduled(lowered):
    """The module whose functions are the kernels."""
    with settings(lowered.target):
        module = lowered.module
        for step in scheduling():
            module = step(module)
    return module


def kernels(lowered):
    """The names of the kernels that a call runs, in order."""
    bindings = (binding.value for block in scheduled(lowered)["main"].body.blocks for binding in block.bindings)
    return [str(call.args[0].name_hint) for call in bindings
            if isinstance(call, relax.Call) and call.op.name == "relax.call_tir"]


def run(lowered, feeds, seed=0):
    """The outputs, in order, for inputs by name."""
    module = scheduled(lowered)
    main = module["main"]
    arrays = [feeds[spec.name] for spec in lowered.inputs] + list(lowered.constants)
    values = dict(zip(main.params, arrays, strict=True))
    for block in main.body.blocks:
        for binding in block.bindings:
            values[binding.var] = evaluate(binding.value, values, module, seed)
    return list(evaluate(main.body.body, values, module, seed))


def evaluate(expr, values, module, seed):
    """The array, or tuple of arrays, of an expression."""
    if isinstance(expr, relax.Var):
        return values[expr]
    if isinstance(expr, ir.GenericConst):
        return expr.value.numpy()
    if isinstance(expr, relax.Tuple):
        return tuple(evaluate(field, values, module, seed) for field in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        return evaluate(expr.tuple_value, values, module, seed)[expr.index]
    name = expr.op.name
    if name == "relax.reshape":
        return evaluate(expr.args[0], values, module, seed).reshape(shape_of(expr.ty))
    assert name == "relax.call_tir", f"no way to execute {name}"
    types = expr.ty_args[0]
    types = types.fields if isinstance(types, relax.TupleType) else [types]
    outputs = [np.zeros(shape_of(each), np.dtype(str(each.dtype))) for each in types]
    inputs = [evaluate(each, values, module, seed) for each in expr.args[1].fields]
    function = module[expr.args[0]]
    pipeline = "tirx" if "sparsec.hand_written" in function.attrs else "s_tir"
    launches.call(function, *map(np.ascontiguousarray, inputs), *outputs, seed=seed, pipeline=pipeline)
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


def shape_of(kind):
    return tuple(int(dim) for dim in kind.shape)
