"""From a lowered model to a program whose kernels are compiled for every architecture of the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.s_tir import dlight
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline

from sparsec.backends.cuda import storages
from sparsec.backends.cuda.dependent import Ahead
from sparsec.backends.cuda.driver import is_exact
from sparsec.backends.cuda.library import begin_library, build_library
from sparsec.backends.cuda.toolchain import version
from sparsec.backends.program import Calls, Function, Functions, Later, Needs, Program
from sparsec.backends.relax import passes
from sparsec.backends.relax.context import HAND_WRITTEN
from sparsec.backends.relax.ieee import IN_A_ROW, keep_nan
from sparsec.backends.relax.lower import Lowered
from sparsec.backends.relax.planned import recording
from sparsec.errors import SparsecError
from sparsec.kernels.cuda.pipeline import AHEAD, ARCHITECTURE, LIBRARY
from sparsec.target import Target

PIPELINE = "sparsec.cuda"
WIDE, VECTOR = 32, 4  # bits of an element that is read by itself, and elements that are read together
Pipeline = Callable[[], tvm.transform.Pass]


def build(lowered: Lowered, mode: str = "compiled", *, overlap: bool = False) -> Program:
    """Compile a lowered model; the virtual machine's own code is "compiled" or "bytecode", which can be watched.

    Args:
        lowered: the model.
        mode: of the virtual machine's own code.
        overlap: kernels are launched before those in front of them have ended.

    Raises:
        ToolchainError: nvcc or the linker is missing or fails.

    """
    with settings(lowered.target) as target:
        module = pipeline()(lowered.module)
        executable = relax.build(module, target, relax_pipeline=None, tir_pipeline=PIPELINE, exec_mode=mode)
    archs = architectures(lowered.module, lowered.target)
    library, objects = build_library(executable, archs, overlap=asked(lowered.module) if overlap else None)
    workspace = int(module[storages.STORAGES].attrs[storages.WORKSPACE])
    return Program(library, "main", lowered.constants, lowered.inputs, lowered.outputs, objects,
                   needs=needs_of(archs, workspace, libraries(lowered.module)))


def build_functions(module: tvm.IRModule, functions: Sequence[tuple[str, tuple[np.ndarray, ...]]],
                    target: Target, *, overlap: bool = False) -> Later:
    """Compile a module of functions, each with its constants, that sessions call kernel by kernel.

    Raises:
        ToolchainError: as `build`.

    """
    calls: dict[str, Calls] = {}
    with settings(target) as cuda:
        noting = recording({name for name, _ in functions}, calls)
        module = tvm.transform.Sequential([*scheduling(), *passes.finishing(noting)])(module)
        archs, called = architectures(module, target), libraries(module)
        library = compiled(module, cuda, archs, overlap=overlap)
    for name, _ in functions:
        if name not in calls:
            raise SparsecError(f"a stage of the model for '{target.name}' does more than to call kernels ({name}); "
                               "please report the model, which compiles for fixed sizes (dims or shapes)")
    made = tuple(Function(name, constants, calls[name]) for name, constants in functions)
    return lambda: Functions(*library(), made, needs_of(archs, called=called))


def build_kernels(kernels: Mapping[str, tirx.PrimFunc], target: Target, *, overlap: bool = False) -> Later:
    """Compile kernels that are called by themselves, by name."""
    named = {name: kernel.without_attr("tirx.private").with_attr({"global_symbol": name, HAND_WRITTEN: True})
             for name, kernel in kernels.items()}
    with settings(target) as cuda:
        library = compiled(tvm.IRModule(named), cuda, target.archs, overlap=overlap)
    return lambda: Functions(*library(), (), needs_of(target.archs))


def compiled(module: tvm.IRModule, target: tvm.target.Target, archs: Sequence[str], *,
             overlap: bool = False) -> Callable[[], tuple[bytes, tuple[int, ...]]]:
    """The library of a module whose Relax passes have run, if it has functions of Relax; nvcc goes on by itself."""
    if any(isinstance(function, relax.Function) for function in module.functions.values()):
        executable = relax.build(module, target, relax_pipeline=None, tir_pipeline=PIPELINE)
    else:
        executable = tvm.compile(module, target=target, tir_pipeline=PIPELINE)
    return begin_library(executable, archs, overlap=asked(module) if overlap else None)


def needs_of(archs: tuple[str, ...], workspace: int = 0, called: tuple[str, ...] = ()) -> Needs:
    """What code for these architectures that calls these libraries needs of a machine."""
    needs: Needs = {"archs": archs, "ptx": () if any(map(is_exact, archs)) else version(), "workspace": (workspace,)}
    return {**needs, "libraries": called} if called else needs


def asked(module: tvm.IRModule) -> Ahead:
    """The bytes of what the first kernels of a module's functions may ask for before they begin."""
    found: dict[str, dict[str, int]] = {}
    for variable, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and AHEAD in function.attrs:
            name = function.attrs.get("global_symbol", variable.name_hint)
            sizes = {each.name: each for each in function.params}
            found[f"{name}_kernel"] = {
                str(array): math.prod(map(int, sizes[array].shape)) * tvm.DataType(str(sizes[array].dtype)).bits // 8
                for array in function.attrs[AHEAD]}
    return found


def architectures(module: tvm.IRModule, target: Target) -> tuple[str, ...]:
    """What a module is compiled for: the target's architectures, or the one that a kernel of it is for alone."""
    return _asked(module, ARCHITECTURE) or target.archs


def libraries(module: tvm.IRModule) -> tuple[str, ...]:
    """The libraries that kernels of a module call."""
    return _asked(module, LIBRARY)


def _asked(module: tvm.IRModule, attribute: str) -> tuple[str, ...]:
    """What kernels of a module have by an attribute, each once."""
    return tuple({str(function.attrs[attribute]) for function in module.functions.values()
                  if function.attrs is not None and attribute in function.attrs})


@contextmanager
def settings(target: Target) -> Iterator[tvm.target.Target]:
    """What kernels are compiled with: the CUDA target of the first architecture, and a host of no special features."""
    cuda = tvm.target.Target({"kind": "cuda", "arch": target.archs[0]}, host={"kind": "llvm", "mcpu": "x86-64"})
    register_tir_pipeline(PIPELINE, _lowering)
    with cuda, tvm.transform.PassContext(opt_level=3), _left_as_source():
        yield cuda


@contextmanager
def _left_as_source() -> Iterator[None]:
    """Keep TVM from compiling CUDA source by itself, as it does where there is a driver: `build_library` does it."""
    name = "tvm_callback_cuda_compile"
    previous = tvm_ffi.get_global_func(name)
    tvm_ffi.register_global_func(name, lambda source: source.encode(), override=True)
    try:
        yield
    finally:
        tvm_ffi.register_global_func(name, previous, override=True)


def _lowering() -> tuple[tvm.transform.Pass, Pipeline, Pipeline]:
    """TIR's passes: those of scheduled loops take seconds for a hand-written kernel, and change nothing about it."""
    scheduled, *finalize = get_tir_pipeline("s_tir")
    written, *_ = get_tir_pipeline("tirx")

    @tvm.transform.module_pass(opt_level=0, name="sparsec.lower_kernels")
    def apply(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        own = {name: function for name, function in module.functions.items() if HAND_WRITTEN in function.attrs}
        rest = {name: function for name, function in module.functions.items() if name not in own}
        lowered = scheduled(tvm.IRModule(rest, attrs=module.attrs))
        if own:
            lowered.update(written(tvm.IRModule(own)))
        return lowered

    return apply, finalize[0], finalize[1]


def pipeline() -> tvm.transform.Pass:
    """The Relax passes, in order."""
    return tvm.transform.Sequential([*scheduling(), *passes.finishing(storages.lift())])


def scheduling() -> list[tvm.transform.Pass]:
    """The passes after which a module consists of calls of scheduled kernels."""
    gpu = dlight.gpu
    rules = gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Fallback()
    return [*passes.fusing(), keep_nans(), dlight.ApplyDefaultSchedule(*map(Careful, rules))]


def keep_nans() -> tvm.transform.Pass:
    """The pass after which kernels that are not hand-written keep NaN in maxima and minima."""
    @tvm.transform.module_pass(opt_level=0, name="sparsec.keep_nans")
    def apply(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        for name, function in module.functions_items():
            if isinstance(function, tvm.tirx.PrimFunc) and HAND_WRITTEN not in function.attrs:
                module[name] = keep_nan(function)
        return module

    return apply


class Careful(dlight.ScheduleRule):  # type: ignore[misc]  # TVM has no types
    """A rule that leaves a kernel to the next one where it breaks on it, as some do on dimensions of size 1."""

    def __init__(self, rule: dlight.ScheduleRule) -> None:
        self.rule = rule

    def apply(self, func: tvm.tirx.PrimFunc, target: tvm.target.Target, tunable: bool  # noqa: FBT001 - TVM's
              ) -> tvm.s_tir.Schedule | None:
        """The schedule, None where the rule has none."""
        if IN_A_ROW in func.attrs and not isinstance(self.rule, dlight.gpu.Fallback):
            return None
        if isinstance(self.rule, dlight.gpu.Matmul | dlight.gpu.GEMV) and _is_unaligned(func):
            return None
        try:
            return self.rule.apply(func, target, tunable)
        except Exception as error:
            if isinstance(self.rule, dlight.gpu.Fallback):
                name = str(func.attrs["global_symbol"]) if "global_symbol" in func.attrs else "a kernel"
                raise SparsecError(f"TVM has no schedule for {name} on '{target.kind.name}' ({type(error).__name__}); "
                                   "please report the model, --target cpu compiles it") from error
            return None


def _is_unaligned(func: tvm.tirx.PrimFunc) -> bool:
    """Whether a row of a narrow tensor may begin where a vector of it must not: the rule reads several at once."""
    buffers = [*func.params, *func.body.block.alloc_buffers]
    return any(tvm.DataType(str(buffer.dtype)).bits < WIDE and buffer.shape and int(buffer.shape[-1]) % VECTOR
               for buffer in buffers)
