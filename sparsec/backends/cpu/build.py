"""From a Relax module to native code that TVM's runtime alone can execute."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax import vm_build
from tvm.target import codegen

from sparsec.backends.cpu.direct import direct, kernels_called, workspace_of
from sparsec.backends.cpu.entry import in_parts
from sparsec.backends.cpu.huge_storages import huge_storages
from sparsec.backends.cpu.schedule import schedule_kernels
from sparsec.backends.program import BIND, Calls, Function, Functions, Program
from sparsec.backends.relax import passes
from sparsec.backends.relax.export import Beside, export, linker
from sparsec.backends.relax.lower import Lowered
from sparsec.backends.relax.planned import recording
from sparsec.errors import ToolchainError
from sparsec.kernels.cpu.tensors.index import ASSERTS
from sparsec.kernels.emit.isa import isa_of
from sparsec.target import SVE_256, Target

MANY = 8
"""Kernels from which on two threads compile them."""

FUSED = 64
"""The operators that one kernel computes at most where TVM joins them."""


def build(lowered: Lowered) -> Program:
    """Compile a lowered model.

    Raises:
        ToolchainError: LLVM does not know the target's processor, or the linker fails.

    """
    embedded: list[np.ndarray] = []
    with prepared(lowered, direct(embedded)) as (module, target):
        kernels = _called(module)
        if len(kernels) < MANY or linker(lowered.target.machine) is None or lowered.target.has(SVE_256):
            library, objects = exported(_executable(module, target), lowered.target)
        else:
            library, objects = _build_apart(module, kernels, lowered.target, target)
    return Program(library, "main", (*lowered.constants, *embedded), lowered.inputs, lowered.outputs, objects,
                   workspace=workspace_of(module))


def _called(module: tvm.IRModule) -> list[str]:
    """The kernels that are called, in order.

    Those of a single word are left out: C's libraries have functions of such names ("erf", "floor"), which calls would
    reach instead, and ld takes some for numbers ("add").
    """
    calls = set(kernels_called(module))

    def visit(expr: tvm.ir.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.GlobalVar):
            calls.add(expr.op.name_hint)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return sorted(name for name in calls if isinstance(module[name], tirx.PrimFunc) and "_" in name)


def _entered(builder: relax.ExecBuilder, module: tvm.IRModule) -> tvm.IRModule:
    """The module with what the virtual machine enters it by."""
    return in_parts(vm_build._vmcodegen(builder, module, "compiled"))  # noqa: SLF001 - the first half of relax.build


def _executable(module: tvm.IRModule, llvm: tvm.target.Target) -> tvm.runtime.Executable:
    """As relax.build makes it, but for the entry in parts."""
    builder = relax.ExecBuilder()
    return vm_build._vmlink(builder, llvm, _entered(builder, module))  # noqa: SLF001 - its second half


def _build_apart(module: tvm.IRModule, apart: Sequence[str], target: Target,
                 llvm: tvm.target.Target) -> tuple[bytes, tuple[int, ...]]:
    """The library of a module whose kernels `apart` may be compiled by themselves: half of them are, in a thread.

    Only what callers reach, and kernels that assert something, check their arguments.
    """
    builder = relax.ExecBuilder()
    functions = {name.name_hint: function for name, function in _entered(builder, module).functions.items()}

    def taken(names: Sequence[str], *, checked: bool = False) -> bytes:
        own = tvm.IRModule({name: functions[name] for name in names})
        with settings(target, checked=checked) as own_llvm, tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
            path = Path(directory) / "kernels.o"
            tirx.build(own, target=own_llvm).write_to_file(str(path), "o")
            return path.read_bytes()

    checked = [name for name in functions if name == BIND or (name in apart and _asserts(functions[name]))]
    half = [name for name in apart if name not in checked][::2]
    rest = {name: function for name, function in functions.items() if name not in {*half, *checked}}
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(taken, half)
        with settings(target, checked=any(map(_asserts, rest.values()))):
            executable = vm_build._vmlink(builder, llvm, tvm.IRModule(rest, attrs=module.attrs))  # noqa: SLF001 - as above
            objects = [taken(checked, checked=True)] if checked else []
            called = (*half, *(name for name in checked if name != BIND))
            return exported(executable, target, Beside(called, lambda: (other.result(), *objects)))


def _asserts(function: tvm.ir.BaseFunc) -> bool:
    """Whether a function looks at what it is given, such as indices; TVM's own kernels do not."""
    return ASSERTS in (function.attrs or {})


def build_functions(module: tvm.IRModule, functions: Sequence[tuple[str, tuple[np.ndarray, ...]]], target: Target,
                    threads: int) -> Functions:
    """Compile a module of functions, each with its constants, as `build`."""
    calls: dict[str, Calls] = {}
    with settings(target) as llvm:
        noting = recording({name for name, _ in functions}, calls)
        executable = _executable(_pipeline(target, threads, noting)(module), llvm)
    return Functions(*exported(executable, target),
                     tuple(Function(name, constants, calls.get(name)) for name, constants in functions))


def build_kernels(kernels: Mapping[str, tirx.PrimFunc], target: Target) -> tuple[bytes, tuple[int, ...]]:
    """Compile kernels that are called by themselves, by name: a library, and its object files' sizes."""
    module = tvm.IRModule({name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()})
    with settings(target) as llvm:
        return exported(tvm.compile(module, target=llvm), target)


def exported(executable: tvm.runtime.Executable, target: Target,
              beside: Beside | None = None) -> tuple[bytes, tuple[int, ...]]:
    """The library of what was compiled for a target."""
    return export(executable, beside, machine=target.machine, rewritten=scalable_256 if target.has(SVE_256) else None)


def scalable_256(code: str) -> str:
    """LLVM's code for scalable vectors of 256 bits, of code for any: then vectors of 256 bits take one register.

    TVM writes that they have 128 to 2048 bits. LLVM takes the attribute for what holds.
    """
    return code.replace("vscale_range(1,16)", "vscale_range(2,2)")


@contextmanager
def prepared(lowered: Lowered, *planned: tvm.transform.Pass) -> Iterator[tuple[tvm.IRModule, tvm.target.Target]]:
    """The module after every Relax pass, with its LLVM target, inside the settings that it must be built with.

    Passes in `planned` run where memory is planned and not yet allocated.
    """
    with settings(lowered.target) as target:
        yield _pipeline(lowered.target, lowered.threads, *planned)(lowered.module), target


@contextmanager
def settings(target: Target, *, checked: bool = True) -> Iterator[tvm.target.Target]:
    """What kernels are compiled with: the LLVM target, and neither of two passes of TVM.

    Storage rewrite moves registers to the heap, and TIR's elimination of common subexpressions takes quadratic time for
    what LLVM does anyway. LLVM's time grows faster than a kernel does, so that few operators become one. Functions that
    only what was compiled with them calls need not be `checked`: the code that looks at types and sizes of arguments
    takes LLVM as long as a kernel's own.
    """
    llvm = llvm_target(target)
    config = {"tirx.disable_storage_rewrite": True, "tirx.disable_cse_tir": True, "relax.FuseOps.max_depth": FUSED,
              "tirx.disable_assert": not checked}
    with llvm, tvm.transform.PassContext(opt_level=3, config=config):
        yield llvm


def llvm_target(target: Target) -> tvm.target.Target:
    """TVM's description of a CPU target; for `cpu` it is the processor at hand."""
    mcpu = codegen.llvm_get_system_cpu() if target.name == "cpu" else target.mcpu
    machine = {"kind": "llvm"} if target.machine == platform.machine() else {
        "kind": "llvm", "mtriple": f"{target.machine}-linux-gnu"}
    if mcpu not in codegen.llvm_get_cpu_archlist(tvm.target.Target(machine)):
        raise ToolchainError(f"this TVM's LLVM does not know the processor '{mcpu}' of target {target.name}; "
                             "compile for cpu-avx512, cpu-avx2, cpu-generic or cpu-neon instead")
    mattr = [*target.mattr, *(["-prefer-256-bit"] if target.vector_bits == 512 else [])]
    return tvm.target.Target({**machine, "mcpu": mcpu, **({"mattr": mattr} if mattr else {})})


def _pipeline(target: Target, threads: int, *planned: tvm.transform.Pass) -> tvm.transform.Pass:
    """The Relax passes, in order."""
    scheduling = schedule_kernels(isa_of(target, threads))
    return tvm.transform.Sequential([*passes.fusing(), scheduling, *passes.finishing(*planned, huge_storages())])
