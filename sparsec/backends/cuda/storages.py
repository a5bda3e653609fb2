"""The memory of intermediate values apart from the program that uses it, so that a recorded program can keep it.

A CUDA graph holds addresses. What the virtual machine allocates in a run goes back to TVM's pool at its end, and
another run may get it while a graph of the first is replayed. So the function `STORAGES` allocates all of it, once for
every recording, and the entry takes it behind its constants. Outputs are allocated in the run, and belong to it.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

ENTRY, STORAGES = "main", "storages"
WORKSPACE = "sparsec.workspace"
"""The attribute of `STORAGES` that holds the bytes it allocates."""


def lift() -> tvm.transform.Pass:
    """The pass that makes parameters of the storages that TVM has planned, in order, behind the others."""
    @tvm.transform.module_pass(opt_level=0, name="sparsec.lift_storages")
    def apply(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        main = module[ENTRY]
        found = planned(main)
        chosen = {binding.var for binding in found}
        blocks = [relax.BindingBlock([each for each in block.bindings if each.var not in chosen])
                  for block in main.body.blocks]
        parameters = [*main.params, *(binding.var for binding in found)]
        module[ENTRY] = relax.Function(parameters, relax.SeqExpr(blocks, main.body.body), main.ret_ty,
                                       main.is_pure, main.attrs)
        module[STORAGES] = _allocating(found)
        return module

    return apply


def planned(main: relax.Function) -> list[relax.VarBinding]:
    """The allocations of storage in a function."""
    storage = tvm.ir.Op.get("relax.memory.alloc_storage")
    return [binding for block in main.body.blocks for binding in block.bindings
            if isinstance(binding.value, relax.Call) and binding.value.op == storage]


def nbytes(found: list[relax.VarBinding]) -> int:
    """The bytes that allocations of storage ask for."""
    return sum(math.prod(int(size) for size in binding.value.args[0].values) for binding in found)


def _allocating(found: list[relax.VarBinding]) -> relax.Function:
    """The function without parameters that returns a tuple of new storages."""
    fresh = [relax.Var(f"storage_{index}", binding.var.ty) for index, binding in enumerate(found)]
    bindings = [relax.VarBinding(var, binding.value) for var, binding in zip(fresh, found, strict=True)]
    result = relax.Var("result", relax.TupleType([var.ty for var in fresh]))
    bindings.append(relax.VarBinding(result, relax.Tuple(fresh)))
    body = relax.SeqExpr([relax.BindingBlock(bindings)], result)
    return relax.Function([], body, result.ty, is_pure=False).with_attrs(
        {"global_symbol": STORAGES, WORKSPACE: nbytes(found)})
