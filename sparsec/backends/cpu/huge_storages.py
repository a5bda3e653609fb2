"""Activations in huge pages, where the system gives them.

A layer whose channels lie a page of 4 KB apart needs more of these than a processor translates at once. So Linux is
asked for pages of 2 MB for every storage of a good part of that size; whether it gives them changes nothing but the
speed.
"""

from __future__ import annotations

from collections.abc import Iterator

import tvm
from tvm import relax
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.kernels.emit.tir import Buffers, Kernel, kernel
from sparsec.machine.huge_pages import ADVICE, PAGE, wanted

_STORAGE = tvm.ir.Op.get("relax.memory.alloc_storage")
_SMALL_PAGE = 4096
LEAST = PAGE // 4
"""Bytes of a storage from which on it takes huge pages, of which the rest stays empty."""


def huge_storages() -> tvm.transform.Pass:
    """The pass that asks for huge pages for the large storages of `main`."""
    @tvm.transform.module_pass(opt_level=0, name="sparsec.huge_storages")
    def apply(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        names = {each.name_hint: each for each in module.get_global_vars()}
        if "main" not in names or not wanted():
            return module
        function, builder = module[names["main"]], relax.BlockBuilder(module)
        bindings = [each for block in function.body.blocks for each in block.bindings]
        if not any(map(_is_huge, bindings)):
            return module
        block = relax.BindingBlock([new for number, each in enumerate(bindings)
                                    for new in _advised(each, builder, number)])
        builder.update_func(names["main"], relax.Function(
            function.params, relax.SeqExpr([block], function.body.body), function.ret_ty, function.is_pure,
            function.attrs))
        return builder.get()

    return apply


def _is_huge(binding: relax.Binding) -> bool:
    value = binding.value
    return isinstance(value, relax.Call) and bool(value.op == _STORAGE) and int(value.args[0].values[0]) >= LEAST


def _advised(binding: relax.Binding, builder: relax.BlockBuilder, number: int) -> Iterator[relax.Binding]:
    """A binding; behind that of a huge storage the advice.

    The C library maps so much memory with a header in front, and Linux aligns maps of whole huge pages to them: with
    room for the header, the storage takes whole ones.
    """
    if not _is_huge(binding):
        yield binding
        return
    size, *rest = binding.value.args
    nbytes = round_up(int(size.values[0]) + _SMALL_PAGE, PAGE) - _SMALL_PAGE
    whole = relax.Var("whole", relax.TensorType((nbytes,), "uint8"))
    advice = builder.add_func(_advice(nbytes, number), f"advise_huge_pages_{number}")
    yield relax.VarBinding(binding.var, relax.Call(_STORAGE, [relax.ShapeExpr([nbytes]), *rest], binding.value.attrs))
    yield relax.VarBinding(whole, relax.op.memory.alloc_tensor(
        binding.var, 0, relax.ShapeExpr([nbytes]), "uint8", 0))
    yield relax.VarBinding(relax.Var("advised", relax.TupleType([])), relax.Call(advice, [whole]))


def _advice(nbytes: int, number: int) -> Kernel:
    """The kernel (storage): it gives the advice, and reads and writes nothing."""
    def emit(b: Buffers) -> None:
        T.evaluate(T.call_extern("int32", f"sparsec_advise_{number}", b["storage"].access_ptr("r"), T.int64(nbytes)))

    return kernel({"storage": (nbytes, "uint8")}, emit, _llvm(number))


def _llvm(number: int) -> str:
    """What gives the advice where a storage is not the one that had it last: the system takes microseconds for it."""
    return f"""
@sparsec_advised_{number} = internal global ptr null
declare i32 @madvise(ptr, i64, i32)
define linkonce_odr i32 @sparsec_advise_{number}(ptr %begin, i64 %bytes) alwaysinline nounwind {{
  %last = load atomic ptr, ptr @sparsec_advised_{number} monotonic, align 8
  %known = icmp eq ptr %last, %begin
  br i1 %known, label %done, label %ask
ask:
  store atomic ptr %begin, ptr @sparsec_advised_{number} monotonic, align 8
  %first = ptrtoint ptr %begin to i64
  %end = add i64 %first, %bytes
  %after = add i64 %first, {_SMALL_PAGE - 1}
  %page = and i64 %after, {-_SMALL_PAGE}
  %length = sub i64 %end, %page
  %at = inttoptr i64 %page to ptr
  %failed = call i32 @madvise(ptr %at, i64 %length, i32 {ADVICE})
  br label %done
done:
  ret i32 0
}}
"""
