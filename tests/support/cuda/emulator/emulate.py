"""Runs CUDA kernels that TVM generated on the host: g++ compiles them against device.h, scheduler.cpp runs them.

    library = compile_source(source)
    statistics = library.run("main_kernel", grid=(4,), block=(128,), dynamic_shared=49152, arguments={"x": x, "y": y})

Arguments are numpy arrays by the kernel's parameter names without "_ptr", or numbers; arrays change in place. Each
array lies between unmapped pages while the kernel runs.
"""

import ctypes
import hashlib
import mmap
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CACHE = HERE.parents[3] / ".pytest_cache" / "emulator"
COMPILER = shutil.which("g++")
CHECKS = ("-fsanitize=bounds,alignment", "-fsanitize-undefined-trap-on-error")  # of local arrays and vector accesses
IDENTITY = ("-fstack-reuse=none",)  # local arrays stand for registers, which asynchronous products still read
FLAGS = ("-std=c++20", "-O1", "-march=native", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", *CHECKS, *IDENTITY)
ALIGNMENT = 16

ASM = re.compile(r'asm(?: volatile)?\(\s*"((?:[^"\\]|\\.)*)"\s*:(.*?)\);\s*\n\}', re.DOTALL)
OPERAND = re.compile(r'"[=+]?[a-z]"\s*\(((?:[^()]|\([^()]*\))*)\)')
PREDICATED = re.compile(r"\{\.reg \.pred p; (\S+) p(,[^;]*); selp\.u32 %0, 1, 0, p;\}")  # as a word
GRIDS_END = re.compile(r'asm volatile\("griddepcontrol\.wait;" : [^:]* : : "memory"\);')
GRIDS_BEGIN = 'asm volatile("griddepcontrol.launch_dependents;" : : : "memory");'
IN_CLUSTER = re.compile(r'asm volatile\("mov\.u32 %0, %%cluster_ctaid\.([xyz]);" : "=r"\((\w+)\) :\);')
KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([\d, ]+\) )?(\w+)\(([^)]*)\) \{')
SCALARS = {"int": ctypes.c_int32, "int64_t": ctypes.c_int64, "float": ctypes.c_float, "uint": ctypes.c_uint32}


class EmulationError(Exception):
    """The kernel did what a GPU would not forgive."""


class TranslationError(Exception):
    """The kernel uses what the emulator does not know, or there is no compiler."""


@dataclass(frozen=True)
class Statistics:
    """What a launch did: warp-wide instructions, rows read by ldmatrix, and those that had to wait for a bank."""

    warp_wide: int
    matrix_rows: int
    bank_conflicts: int


@dataclass(frozen=True)
class Library:
    """Compiled kernels: name -> parameters (name, C type)."""

    handle: ctypes.CDLL
    kernels: dict

    def run(self, kernel, grid, block, dynamic_shared, arguments, seed=0, cluster=(), held=None):
        """Run one launch; `grid`, `block` and `cluster` have up to three extents. What is `held`, by name, stays so."""
        parameters = self.kernels[kernel]
        names = [name if kind.endswith("*") else arguments[name].argument for name, kind in parameters
                 if kind.endswith("*") or kind == "CUtensorMap"]
        copied = {} if held is not None else {name: Guarded(arguments[name]) for name in names}
        held = copied if held is None else {name: held[name] for name in names}
        guarded = [held[name] if kind.endswith("*") else arguments[name].located(held) if kind == "CUtensorMap" else
                   SCALARS[kind](arguments[name]) for name, kind in parameters]
        pointers = (ctypes.c_void_p * len(guarded))(
            *[a.address if isinstance(a, Guarded) else ctypes.addressof(a) for a in guarded])
        arrays = list(held.values())
        ranges = (ctypes.c_uint64 * (2 * len(arrays)))(*[v for a in arrays for v in (a.address, a.source.nbytes)])
        extents = [(ctypes.c_uint * 3)(*(*e, 1, 1, 1)[:3]) for e in (grid, block, cluster)]
        counts = (ctypes.c_uint64 * 3)()
        failure = runtime().emulate(
            ctypes.cast(self.handle[f"call_{kernel}"], ctypes.c_void_p), pointers, *extents,
            ctypes.c_size_t(dynamic_shared), seed, ranges, ctypes.c_size_t(len(arrays)), counts)
        if failure:
            raise EmulationError(f"{kernel}{[name for name, _ in parameters]}: {failure.decode()}")
        for array in copied.values():
            array.copy_back()
        return Statistics(*counts)


class CMap(ctypes.Structure):
    """`emulator::Map`."""

    _fields_ = (("base", ctypes.c_uint64), ("columns", ctypes.c_uint64), ("rows", ctypes.c_uint64),
                ("stride", ctypes.c_uint64), ("box_columns", ctypes.c_uint32), ("box_rows", ctypes.c_uint32),
                ("itemsize", ctypes.c_uint32))


@dataclass(frozen=True)
class Map:
    """A tensor map of a matrix in an argument: its columns, rows and bytes from row to row, and the box's."""

    argument: str
    columns: int
    rows: int
    stride: int
    box_columns: int
    box_rows: int
    itemsize: int

    def located(self, held):
        """The map as kernels take it, among the arrays of a launch."""
        array = held[self.argument]
        if (self.rows - 1) * self.stride + self.columns * self.itemsize > array.source.nbytes:
            raise EmulationError(f"a map beyond the end of {self.argument}")
        return CMap(array.address, *[getattr(self, name) for name, _ in CMap._fields_[1:]])


class Guarded:
    """A copy of an array that ends at an unmapped page (but for alignment) and begins not far behind another."""

    def __init__(self, source):
        page = mmap.PAGESIZE
        self.source = source
        self.slack = -source.nbytes % ALIGNMENT
        body = -(-max(source.nbytes, 1) // page) * page
        self.memory = mmap.mmap(-1, body + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for guard in (start, start + page + body):
            libc().mprotect(ctypes.c_void_p(guard), page, 0)
        self.begin = page + body - self.slack - source.nbytes
        self.address = start + self.begin
        self.memory[page:page + body] = b"\xff" * body
        self.memory[self.begin:self.begin + source.nbytes] = source.tobytes()

    def copy_back(self):
        """Bring the contents back after a run."""
        if self.source.flags.writeable:
            end = self.begin + self.source.nbytes
            if self.memory[end:end + self.slack] != b"\xff" * self.slack:
                raise EmulationError("a store behind the end of an array")
            contents = np.frombuffer(self.memory[self.begin:end], self.source.dtype)
            self.source[...] = contents.reshape(self.source.shape)


@cache
def libc():
    """The C library."""
    return ctypes.CDLL(None)


@cache
def runtime():
    """The emulator's runtime."""
    sources = "".join(f'#include "{path.name}"\n' for path in sorted(HERE.glob("*.cpp")))
    library = ctypes.CDLL(build(sources), mode=ctypes.RTLD_GLOBAL)
    library.emulate.restype = ctypes.c_char_p
    return library


def build(text):
    """The path of a shared library from C++ text, compiled once."""
    if COMPILER is None:
        raise TranslationError("emulating kernels needs g++")
    own = "".join(path.read_text() for path in sorted(HERE.glob("*.h")) + sorted(HERE.glob("*.cpp")))
    path = CACHE / f"{hashlib.sha256((own + text + str(FLAGS)).encode()).hexdigest()[:24]}.so"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        source = Path(folder, "kernel.cpp")
        source.write_text(text)
        command = [COMPILER, *FLAGS, "-I", HERE, source, "-o", Path(folder, "kernel.so")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise TranslationError(f"g++ refuses the kernel: {result.stderr[:2000]}")
        Path(folder, "kernel.so").replace(path)
    return path


def compile_source(source):
    """The kernels of generated CUDA source."""
    text = translate(source)
    kernels = {}
    for name, parameters in KERNEL.findall(text):
        kernels[name] = [parameter(p) for p in parameters.split(",") if p.strip()]
        call = ", ".join(f"({kind})p[{i}]" if kind.endswith("*") else f"*({kind}*)p[{i}]"
                         for i, (_, kind) in enumerate(kernels[name]))
        text += f'\nextern "C" void call_{name}(void** p) {{ {name}({call}); }}\n'
    runtime()
    return Library(ctypes.CDLL(build(text)), kernels)


def parameter(declaration):
    """Name and C type of a kernel's parameter."""
    *kind, name = declaration.replace("__restrict__", "").replace("*", "* ").split()
    return name.removesuffix("_ptr"), " ".join(k for k in kind if k not in ("const", "__grid_constant__"))


def translate(source):
    """CUDA source for device.h: inline PTX as function calls, shared memory as the emulator's."""
    text = re.sub(r"#include <(?:cuda\w*|math_constants|sm_61_intrinsics)\.h>", "", source)
    text = re.sub(r'asm volatile \("dp4a.*', "", text)  # of functions beside bytes that none calls
    text = GRIDS_END.sub("emulator::wait_for_grids();", text).replace(GRIDS_BEGIN, "")
    text = IN_CLUSTER.sub(r"\2 = emulator::block_index.\1 % emulator::cluster_extents.\1;", text)
    text = ASM.sub(lambda match: f"{shim(match[1], match[2])}\n}}", text)
    if re.search(r"\basm\b\s*(?:volatile|\()", text):
        raise TranslationError("inline PTX of a form that the emulator does not translate")
    text = re.sub(r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];",
                  r"\1* \2 = (\1*)emulator::shared_memory();", text)
    text = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 __shared__", text)
    return '#include "device.h"\n' + text


def shim(instruction, rest):
    """The call that stands for one instruction; `rest` holds the operands behind its text."""
    outputs, _, inputs = rest.partition(":")
    operands = OPERAND.findall(outputs) + OPERAND.findall(inputs.split(":")[0])
    if found := PREDICATED.fullmatch(instruction):
        instruction = f"{found[1]} %0{found[2]}"
    mnemonic, _, text = instruction.strip().rstrip(";").partition(" ")
    if ";" in text:
        raise TranslationError(f"several instructions in one asm statement: {instruction}")
    arguments = [operands[int(token[1:])] if token.startswith("%") else token
                 for token in re.split(r"[\s,{}\[\]]+", text) if token and token != "_"]
    return f"  ptx_{re.sub(r'::|[.]', lambda m: '__' if m[0] == '::' else '_', mnemonic)}({', '.join(arguments)});"
