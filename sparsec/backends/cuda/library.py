"""From a Relax executable to a shared object whose GPU code is a fat binary.

Where there is no CUDA driver, TVM's code generator leaves CUDA source in the modules that it exports, and nothing
compiles it. The blob of an exported library is rewritten here as TVM's own CUDA module writes it: the source replaced
by what nvcc makes of it. So neither a driver nor CUDA's runtime is needed to compile, and sources are compiled for
several architectures at once.

The blob (TVM 0.27): its length; the import tree as two arrays; for every module its kind and, but for "_lib", its
bytes. Those of a CUDA module are the format of the code, the map of its functions, and the code. Integers have 64 bits,
texts and arrays begin with their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from sparsec.backends.cpu.build import export
from sparsec.backends.cuda.toolchain import fat_binary
from sparsec.errors import ToolchainError

_WORD = 8


@dataclass(frozen=True)
class DeviceCode:
    """The GPU code of a library.

    Attributes:
        source: CUDA, as TVM wrote it.
        binary: nvcc's fat binary of it: a cubin for every architecture, and PTX.

    """

    source: str
    binary: bytes


def build_library(executable: tvm.runtime.Executable, archs: Sequence[str],
                  ) -> tuple[bytes, tuple[int, ...], DeviceCode]:
    """The shared object, the sizes of its objects where it could not be linked, and the code that it holds.

    Raises:
        ToolchainError: nvcc or the linker is missing or fails.

    """
    codes: list[DeviceCode] = []

    def pack(module: Any, _system: bool, _prefix: str, directory: str) -> str:  # noqa: FBT001 - TVM's signature
        blob, code = _rewritten(tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")(module).numpy().tobytes(),
                                archs)
        codes.append(code)
        path = Path(directory) / "devc.o"
        make = tvm_ffi.get_global_func("codegen.codegen_blob")
        make(blob, False, '{"kind": "llvm", "mcpu": "x86-64"}', "").write_to_file(str(path))
        return str(path)

    library, objects = export(executable, fpack_imports=pack)
    return library, objects, codes[0]


def _rewritten(blob: bytes, archs: Sequence[str]) -> tuple[bytes, DeviceCode]:
    """The blob with the source of its CUDA module compiled."""
    reader = _Reader(blob, _WORD)
    for _ in range(2):
        reader.skip(_WORD * reader.number())
    result, code = bytearray(blob[_WORD:reader.at]), None
    while reader.at < len(blob):
        kind = reader.text()
        result += _sized(kind)
        if kind == b"_lib":
            continue
        content = reader.text()
        if kind == b"cuda":
            content, code = _compiled(content, archs)
        result += _sized(content)
    if code is None:
        raise ToolchainError("TVM exported no CUDA module; the model has no operator to run on a GPU")
    return len(result).to_bytes(_WORD, "little") + bytes(result), code


def _compiled(content: bytes, archs: Sequence[str]) -> tuple[bytes, DeviceCode]:
    """The bytes of a CUDA module with source as one with a binary, which TVM calls "cubin"."""
    reader = _Reader(content, 0)
    if (written := reader.text()) != b"cuda":
        raise ToolchainError(f"TVM exported CUDA code as '{written.decode()}', not as source; "
                             "install the release of apache-tvm that sparsec names")
    begin = reader.at
    for _ in range(reader.number()):
        reader.function()
    functions, source = content[begin:reader.at], reader.text()
    binary = fat_binary(source.decode(), archs)
    return _sized(b"cubin") + functions + _sized(binary), DeviceCode(source.decode(), binary)


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

    def function(self) -> None:
        """A function's key, name, argument types (4 bytes each), launch parameters and extra arguments."""
        self.text()
        self.text()
        self.skip(4 * self.number())
        for _ in range(self.number()):
            self.text()
        self.skip(4 * self.number())


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(_WORD, "little") + data
