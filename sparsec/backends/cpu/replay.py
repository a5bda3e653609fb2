"""The kernel that runs a list of blocks of calls, each as often as it says, so that a session makes one call for all.

All is in words of 64 bits, and addresses are absolute. The program holds at its beginning the number of its operations;
each is the address of a block, how often that runs, and the block's bases. A block, see `runtime.sized.blocks`:

    bases, slots, calls             how many there are of each
    address, base, offset, step     of every slot: the word at `address` is set to its base + offset + step x repetition
    function, arguments, count      of every call, as TVM's `TVMFFIFunctionCall` takes them
"""

from __future__ import annotations

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from sparsec.backends.program import REPLAY

_ACCESS = """
define linkonce_odr i64 @sparsec_word(i64 %at) alwaysinline nounwind {
  %from = inttoptr i64 %at to ptr
  %word = load i64, ptr %from, align 8
  ret i64 %word
}
define linkonce_odr i32 @sparsec_set_word(i64 %at, i64 %word) alwaysinline nounwind {
  %to = inttoptr i64 %at to ptr
  store i64 %word, ptr %to, align 8
  ret i32 0
}
declare i32 @TVMFFIFunctionCall(ptr, ptr, i32, ptr)
define linkonce_odr i32 @sparsec_call(i64 %function, i64 %arguments, i64 %count) nounwind {
  %result = alloca [2 x i64], align 16
  store [2 x i64] zeroinitializer, ptr %result, align 16
  %own = inttoptr i64 %function to ptr
  %given = inttoptr i64 %arguments to ptr
  %number = trunc i64 %count to i32
  %code = call i32 @TVMFFIFunctionCall(ptr %own, ptr %given, i32 %number, ptr %result)
  ret i32 %code
}
"""
_HEAD, _SLOT, _CALL = 3, 4, 3
"""Words of a block's head, of a slot and of a call."""
_WORD = 8  # bytes


def build() -> tvm.tirx.PrimFunc:
    """The kernel: it takes the program, and fails as the first call that fails."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": REPLAY})
        program = T.arg("program", T.buffer((T.var("int64", "words"),), "int64"))
        with T.attr(T.int32(0), "pragma_import_llvm", _ACCESS):
            at = T.alloc_buffer((1,), "int64", scope="local")
            T.buffer_store(at, T.int64(1), [0])
            with T.serial(0, program[0]):
                block = T.Bind(program[at[0]])
                with T.serial(0, program[at[0] + 1]) as repetition:
                    _block(program, T.Bind(at[0] + 2), block, repetition)
                T.buffer_store(at, at[0] + 2 + _word(block), [0])
    return builder.get()


def _word(address: tvm.tirx.Expr) -> tvm.tirx.Expr:
    return T.call_extern("int64", "sparsec_word", address)


def _block(program: tvm.tirx.Buffer, bases: tvm.tirx.Expr, block: tvm.tirx.Expr, repetition: tvm.tirx.Expr) -> None:
    """Set the slots of a block, and make its calls."""
    slots, calls = T.Bind(_word(block + _WORD)), T.Bind(_word(block + 2 * _WORD))
    with T.serial(0, slots) as number:
        slot = T.Bind(block + (_HEAD + _SLOT * number) * _WORD)
        moved = _word(slot + 2 * _WORD) + _word(slot + 3 * _WORD) * repetition
        T.evaluate(T.call_extern("int32", "sparsec_set_word", _word(slot),
                                 program[bases + _word(slot + _WORD)] + moved))
    with T.serial(0, calls) as number:
        call = T.Bind(block + (_HEAD + _SLOT * slots + _CALL * number) * _WORD)
        code = T.call_extern("int32", "sparsec_call", _word(call), _word(call + _WORD), _word(call + 2 * _WORD))
        with T.If(code != 0), T.Then():
            T.evaluate(T.tvm_throw_last_error())
