"""From a Relax module to native code that TVM's runtime alone can execute."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.target import codegen

from sparsec.backends.cpu.lower import Lowered
from sparsec.backends.cpu.schedule import schedule_kernels
from sparsec.backends.program import Program
from sparsec.errors import ToolchainError
from sparsec.kernels.emit.isa import isa_of
from sparsec.target import Target

LINKERS = ("ld", "ld.lld", "cc", "gcc", "g++", "clang")


def build(lowered: Lowered) -> Program:
    """Compile a lowered model.

    Raises:
        ToolchainError: LLVM does not know the target's processor, or the linker fails.

    """
    with prepared(lowered) as (module, target):
        executable = relax.build(module, target, relax_pipeline=None, exec_mode="compiled")
    library, objects = export(executable)
    return Program(library, "main", lowered.constants, lowered.inputs, lowered.outputs, objects)


@contextmanager
def prepared(lowered: Lowered) -> Iterator[tuple[tvm.IRModule, tvm.target.Target]]:
    """The module after every Relax pass, with its LLVM target, inside the settings that it must be built with."""
    with settings(lowered.target) as target:
        yield _pipeline(lowered)(lowered.module), target


@contextmanager
def settings(target: Target) -> Iterator[tvm.target.Target]:
    """What kernels are compiled with: the LLVM target, and neither of two passes of TVM.

    Storage rewrite moves registers to the heap, and TIR's elimination of common subexpressions takes quadratic time for
    what LLVM does anyway.
    """
    llvm = llvm_target(target)
    config = {"tirx.disable_storage_rewrite": True, "tirx.disable_cse_tir": True}
    with llvm, tvm.transform.PassContext(opt_level=3, config=config):
        yield llvm


def llvm_target(target: Target) -> tvm.target.Target:
    """TVM's description of a CPU target; for `cpu` it is the processor at hand."""
    mcpu = codegen.llvm_get_system_cpu() if target.name == "cpu" else target.mcpu
    if mcpu not in codegen.llvm_get_cpu_archlist(tvm.target.Target("llvm")):
        raise ToolchainError(f"this TVM's LLVM does not know the processor '{mcpu}' of target {target.name}; "
                             "compile for cpu-avx512, cpu-avx2 or cpu-generic instead")
    wide = {"mattr": ["-prefer-256-bit"]} if target.vector_bits == 512 else {}
    return tvm.target.Target({"kind": "llvm", "mcpu": mcpu, **wide})


def _pipeline(lowered: Lowered) -> tvm.transform.Pass:
    """The Relax passes, in order."""
    passes = relax.transform
    return tvm.transform.Sequential([
        relax.backend.DispatchSampling(), relax.backend.DispatchSortScan(),
        passes.DecomposeOpsForInference(), passes.CanonicalizeBindings(),
        passes.LegalizeOps(), passes.AnnotateTIROpPattern(), passes.FoldConstant(),
        passes.RewriteDataflowReshape(),  # before fusion: a reshape is a view, inside a kernel it breaks up the loops
        passes.FuseOps(), passes.FuseTIR(),
        passes.DeadCodeElimination(), schedule_kernels(isa_of(lowered.target, lowered.threads)),
        passes.ToNonDataflow(), passes.RemovePurityChecking(), passes.CallTIRRewrite(),
        passes.StaticPlanBlockMemory(), passes.LowerAllocTensor(), passes.KillAfterLastUse(),
        passes.LowerRuntimeBuiltin(), passes.ComputePrimValue(), passes.VMShapeLower(), passes.AttachGlobalSymbol(),
    ])


OBJECT_BYTES = 16 << 20
"""Room that object files and the library of a large model take."""


def export(executable: tvm.runtime.Executable, **options: Any) -> tuple[bytes, tuple[int, ...]]:
    """A shared object by whichever linker is installed, else the object files and their sizes, for TVM's JIT loader.

    Options are those of TVM's `export_library`.

    Raises:
        ToolchainError: the linker fails, or there is no room for temporary files.

    """
    linker = next(filter(shutil.which, LINKERS), None)
    objects: list[bytes] = []

    def finish(output: str, paths: Sequence[str], **_options: object) -> None:
        if linker is None:
            objects.extend(Path(path).read_bytes() for path in paths)
            Path(output).write_bytes(b"".join(objects))
            return
        done = subprocess.run([linker, "-shared", "-o", output, *paths],  # noqa: S603 - our own temporary files
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolchainError(f"{linker} failed: {done.stderr.strip()}")

    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        if (free := shutil.disk_usage(directory).free) < OBJECT_BYTES:  # LLVM ends the process where writing fails
            raise ToolchainError(f"{free} bytes are left for temporary files beside {directory}, and compiling takes "
                                 f"up to {OBJECT_BYTES}; make room or set TMPDIR to a directory with more")
        path = Path(directory) / "library"
        executable.export_library(str(path), fcompile=finish, **options)
        return path.read_bytes(), tuple(map(len, objects))
