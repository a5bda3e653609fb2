"""From a Relax executable to a shared object whose GPU code is a fat binary.

TVM's code generator leaves CUDA source in the modules that it exports, and nothing compiles it: by itself where there
is no CUDA driver, and else because `build.settings` says so, when it takes the source for compiled code. The blob of an
exported library is rewritten here as TVM's own CUDA module writes it: the source replaced by what nvcc makes of it. So
neither a driver nor CUDA's runtime is needed to compile, and sources are compiled for several architectures at once.

The blob (TVM 0.27): its length; the import tree as two arrays; for every module its kind and, but for "_lib", its
bytes. Those of a CUDA module are the format of the code, the map of its functions, and the code. Integers have 64 bits,
texts and arrays begin with their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import MappingProxyType

import tvm
import tvm_ffi

from sparsec.backends.cuda import dependent
from sparsec.backends.cuda.toolchain import fat_binary
from sparsec.backends.relax.export import export
from sparsec.errors import ToolchainError
from sparsec.machine.cpus import available

_WORD = 8
NOTHING: Mapping[str, Future[bytes]] = MappingProxyType({})
_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("nvcc", default=None)

FATBIN = b"\x50\xed\x55\xba"
"""The first bytes of a fat binary; its version, the length of its header (both 2 bytes) and of the rest (8) follow."""


def build_library(executable: tvm.runtime.Executable, archs: Sequence[str],
                  begun: Mapping[str, Future[bytes]] = NOTHING, *,
                  overlap: dependent.Ahead | None = None) -> tuple[bytes, tuple[int, ...]]:
    """The shared object, and the sizes of its objects where it could not be linked.

    Args:
        executable: what TVM has compiled.
        archs: what nvcc compiles for.
        begun: by source what nvcc makes of it already.
        overlap: where it is given, kernels are launched before those in front of them have ended, and ask for this.

    Raises:
        ToolchainError: nvcc or the linker is missing or fails.

    """
    def binary(source: str) -> bytes:
        return begun[source].result() if source in begun else fat_binary(source, archs)

    def pack(module: tvm.runtime.Module, _system: bool, _prefix: str, directory: str) -> str:  # noqa: FBT001 - TVM's signature
        blob = _rewritten(_serialised(module), binary, overlap=overlap)
        path = Path(directory) / "devc.o"
        make = tvm_ffi.get_global_func("codegen.codegen_blob")
        make(blob, False, '{"kind": "llvm", "mcpu": "x86-64"}', "").write_to_file(str(path))
        return str(path)

    return export(executable, fpack_imports=pack)


def begin_library(executable: tvm.runtime.Executable, archs: Sequence[str], *,
                  overlap: dependent.Ahead | None = None) -> Callable[[], tuple[bytes, tuple[int, ...]]]:
    """What waits for the shared object as `build_library` has it, whose sources nvcc begins at once `side_by_side`."""
    begun: dict[str, Future[bytes]] = {}
    pool = _POOL.get()

    def begin(source: str) -> bytes:
        if pool is not None:
            begun[source] = pool.submit(fat_binary, source, archs)
        return b""

    _rewritten(_serialised(executable.mod), begin, overlap=overlap)
    return partial(build_library, executable, archs, begun, overlap=overlap)


@contextmanager
def side_by_side() -> Iterator[None]:
    """While it lasts, libraries that are begun are compiled beside each other, and beside what else this thread does.

    One thread for every processor waits for nvcc; what none has taken up at the end, after an error, never is.
    """
    pool = ThreadPoolExecutor(max(2, available()), "nvcc")
    outer = _POOL.set(pool)
    try:
        yield
    finally:
        _POOL.reset(outer)
        pool.shutdown(wait=False, cancel_futures=True)


def _serialised(module: tvm.runtime.Module) -> bytes:
    """The blob of a module."""
    blob: bytes = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")(module).numpy().tobytes()
    return blob


def fat_binary_of(library: bytes) -> bytes:
    """The fat binary in a library, for `cuobjdump`.

    Raises:
        ValueError: there is none.

    """
    begin = library.index(FATBIN)
    header, rest = (int.from_bytes(library[begin + at:begin + end], "little") for at, end in ((6, 8), (8, 16)))
    return library[begin:begin + header + rest]


def _rewritten(blob: bytes, binary: Callable[[str], bytes], *, overlap: dependent.Ahead | None) -> bytes:
    """The blob with the source of its CUDA module made a `binary`."""
    reader = _Reader(blob, _WORD)
    for _ in range(2):
        reader.skip(_WORD * reader.number())
    result, compiled = bytearray(blob[_WORD:reader.at]), False
    while reader.at < len(blob):
        kind = reader.text()
        result += _sized(kind)
        if kind == b"_lib":
            continue
        content = reader.text()
        if kind == b"cuda":
            content, compiled = _compiled(content, binary, overlap=overlap), True
        result += _sized(content)
    if not compiled:
        raise ToolchainError("TVM exported no CUDA module; the model has no operator to run on a GPU")
    return _sized(bytes(result))


def _compiled(content: bytes, binary: Callable[[str], bytes], *, overlap: dependent.Ahead | None) -> bytes:
    """The bytes of a CUDA module with source as one with a binary, which TVM calls "cubin"."""
    reader = _Reader(content, 0)
    if (written := reader.text()) not in (b"cuda", b"cubin", b"ptx"):
        raise ToolchainError(f"TVM exported CUDA code as '{written.decode()}', not as source; "
                             "install the release of apache-tvm that sparsec names")
    count = reader.number()
    functions = [reader.function(None if overlap is None else dependent.TAG) for _ in range(count)]
    source = reader.text().decode()
    if overlap is not None:
        source = dependent.waiting(source, [name.decode() for name, _ in functions], overlap)
    told = b"".join(described for _, described in functions)
    return _sized(b"cubin") + count.to_bytes(_WORD, "little") + told + _sized(binary(source))


class _Reader:
    """A position in serialised bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self.at = data, at

    def skip(self, count: int) -> None:
        self.at += count

    def number(self) -> int:
        self.skip(_WORD)
        return int.from_bytes(self._data[self.at - _WORD:self.at], "little")

    def text(self) -> bytes:
        length = self.number()
        self.skip(length)
        return self._data[self.at - length:self.at]

    def function(self, tag: bytes | None) -> tuple[bytes, bytes]:
        """A function's name, and all of it, with a tag in front of its launch parameters.

        It is: key, name, argument types (4 bytes each), launch parameters, extra arguments.
        """
        begin = self.at
        self.text()
        name = self.text()
        self.skip(4 * self.number())
        types = self.at
        count = self.number()
        parameters = self.at
        for _ in range(count):
            self.text()
        self.skip(4 * self.number())
        more = [] if tag is None else [tag]
        told = (count + len(more)).to_bytes(_WORD, "little") + b"".join(map(_sized, more))
        return name, self._data[begin:types] + told + self._data[parameters:self.at]


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(_WORD, "little") + data
