"""The artifact: one file that holds a compiled model and everything its execution needs.

`model.sparsec` is a zip of the members in `MEMBERS`, without pickles. `manifest.json` says what the program needs and
gives the SHA-256 of every other member; the zip's comment is the SHA-256 of all bytes before it, so that no byte of the
file can change unnoticed. Equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import math
import os
import secrets
import sysconfig
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsec import signing
from sparsec.backends.program import Program, TensorSpec
from sparsec.backends.stored import StoredWeight, encode, fits, from_json, restore, store
from sparsec.errors import ArtifactError, FormatError, SignatureError
from sparsec.target import Target, machine_features

SCHEMA = 2
ALIGNMENT = 64
"""Bytes; every constant starts at a multiple of it, in the file and in memory."""

MEMBERS = ("manifest.json", "library.bin", "weights.bin", "graph.onnx", "report.json")
_DIGEST_LENGTH = hashlib.sha256().digest_size * 2
_LARGEST_RATIO = 64
_ISA_PREFIXES = ("sse4", "avx", "fma", "f16c", "amx", "abm", "adx", "bmi", "gfni", "movbe")


@dataclass(frozen=True)
class Constant:
    """Where one constant lies in `weights.bin` and how it is stored there: a key of `DECODERS`, or `PACKED`."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    encoding: str = "raw"


def _decode_raw(stored: memoryview, constant: Constant) -> np.ndarray:
    """The stored bytes as they are."""
    return np.frombuffer(stored, dtype=constant.dtype).reshape(constant.shape)


DECODERS: dict[str, Callable[[memoryview, Constant], np.ndarray]] = {"raw": _decode_raw}
"""Encoding -> function from the stored bytes to the array that the kernel reads."""

PACKED = "packed"
"""The encoding of constants that follow from a stored weight and have no bytes of their own."""


@dataclass(frozen=True)
class Manifest:
    """What an artifact needs and offers.

    Attributes:
        schema: version of this file format.
        sparsec: version of the compiler.
        tvm: version of TVM; its runtime must be of the same release.
        platform: operating system and processor, such as "linux-x86_64".
        target: what `--target` was.
        features: instruction-set features that the library uses, by their Linux names.
        threads: the most threads it can use.
        entry: the VM function.
        inputs: the signature's inputs, in order.
        outputs: the signature's outputs, in order.
        constants: the VM function's further arguments, in order.
        objects: the bytes of each object file in the library, to be linked when loaded; empty for a shared object.
        stored: the weights that packed constants follow from.

    """

    schema: int
    sparsec: str
    tvm: str
    platform: str
    target: str
    features: tuple[str, ...]
    threads: int
    entry: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: tuple[Constant, ...]
    objects: tuple[int, ...]
    stored: tuple[StoredWeight, ...]


@dataclass(frozen=True)
class Artifact:
    """A compiled model.

    Attributes:
        manifest: what it needs and offers.
        library: the compiled code: a shared object, or object files one after the other.
        weights: the constants, each as its entry in the manifest says.
        graph: the final graph as ONNX, without large weights; for looking at.
        report: JSON-serialisable: the plan's table and the result of the verification.

    """

    manifest: Manifest
    library: bytes
    weights: bytes
    graph: bytes
    report: dict[str, Any]

    @classmethod
    def build(cls, program: Program, target: Target, threads: int, graph: bytes, report: dict[str, Any],
              codec: str = "f32") -> Artifact:
        """The artifact of a compiled program; `codec` stores the values of its packed weights."""
        weights, constants, stored = _lay_out(program, codec)
        manifest = Manifest(
            schema=SCHEMA,
            sparsec=importlib.metadata.version("sparsec"),
            tvm=importlib.metadata.version("apache-tvm"),
            platform=sysconfig.get_platform(),
            target=target.name,
            features=tuple(sorted(f for f in target.features if f.startswith(_ISA_PREFIXES))),
            threads=threads,
            entry=program.entry,
            inputs=program.inputs,
            outputs=program.outputs,
            constants=constants,
            objects=program.objects,
            stored=stored,
        )
        return cls(manifest, program.library, weights, graph, report)

    def constants(self) -> list[np.ndarray]:
        """Every constant as the kernels read it, in the order of the entry function's arguments.

        Raises:
            ArtifactError: a stored weight is not what the constants are made of.

        """
        data = memoryview(self.weights)
        packed: dict[int, np.ndarray] = {}
        try:
            for each in self.manifest.stored:
                packed |= restore(each, data)
            return [_checked(packed[number], c) if c.encoding == PACKED
                    else DECODERS[c.encoding](data[c.offset:c.offset + c.nbytes], c)
                    for number, c in enumerate(self.manifest.constants)]
        except (FormatError, KeyError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(f"a stored weight contradicts itself ({error}); compile the model again") from error

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        contents = {
            "library.bin": self.library,
            "weights.bin": self.weights,
            "graph.onnx": self.graph,
            "report.json": _json_bytes(self.report),
        }
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        contents["manifest.json"] = _json_bytes({**asdict(self.manifest), "sha256": hashes})
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in MEMBERS:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o644 << 16
                info.compress_type = zipfile.ZIP_STORED if name == "weights.bin" else zipfile.ZIP_DEFLATED
                archive.writestr(info, contents[name])
            archive.comment = b" " * _DIGEST_LENGTH
        digest = hashlib.sha256(buffer.getbuffer()[:-_DIGEST_LENGTH]).hexdigest()
        buffer.seek(-_DIGEST_LENGTH, os.SEEK_END)
        buffer.write(digest.encode())
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; readers of `path` see the old file or the whole new one.

        Raises:
            ArtifactError: it cannot be written; a file that was there is as it was.

        """
        try:
            write_atomic(path, self.to_bytes())
        except OSError as error:
            raise ArtifactError(f"cannot write {path}: {error.strerror}; what was there before is untouched") from error

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes, *,
             require_signature: str | os.PathLike[str] | None = None) -> Artifact:
        """Read an artifact from a file or its bytes and check that it is whole.

        Args:
            source: what to read.
            require_signature: the file of a public key; the signature beside `source`, a path, must be its owner's.

        Raises:
            ArtifactError: it is no artifact, damaged, or of another schema.
            SignatureError: the required signature is missing or wrong; nothing was unpacked.

        """
        name = "the artifact" if isinstance(source, bytes) else os.fspath(source)
        try:
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
        except OSError as error:
            raise ArtifactError(f"cannot read {name}: {error.strerror}") from error
        if require_signature is not None:
            if isinstance(source, bytes):
                raise SignatureError("a signature lies beside a file; load the artifact by its path to check one")
            signing.check(data, source, require_signature)
        return _parse(name, _unpack(name, data))

    def check_machine(self) -> None:
        """Check that this machine and its TVM runtime can execute the program.

        Raises:
            ArtifactError: they cannot; says what to compile instead.

        """
        here, tvm = sysconfig.get_platform(), importlib.metadata.version("apache-tvm")
        if not self.library:
            raise ArtifactError(f"the artifact was compiled for '{self.manifest.target}', which is no processor; "
                                "`sparsec simulate` runs it")
        if self.manifest.platform != here:
            raise ArtifactError(f"the artifact was compiled for {self.manifest.platform} and this is {here}; "
                                "compile the model on this machine")
        if missing := sorted(set(self.manifest.features) - machine_features()):
            raise ArtifactError(f"the artifact was compiled for '{self.manifest.target}' and this processor lacks "
                                f"{', '.join(missing)}; compile the model with --target cpu on this machine, "
                                "or with --target cpu-avx2 or cpu-generic")
        if self.manifest.tvm.split(".")[:2] != tvm.split(".")[:2]:
            raise ArtifactError(f"the artifact needs the runtime of TVM {self.manifest.tvm} and {tvm} is installed; "
                                f"install apache-tvm=={self.manifest.tvm} or compile the model again")


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file's content at once: a failure leaves the old content and no temporary file.

    Raises:
        OSError: as the system reports it, naming `path`.

    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _checked(array: np.ndarray, constant: Constant) -> np.ndarray:
    """A packed array of the type and shape that the library was compiled for."""
    _require(array.dtype.name == constant.dtype and array.shape == constant.shape, "an array has another shape")
    return array


def _lay_out(program: Program, codec: str) -> tuple[bytes, tuple[Constant, ...], tuple[StoredWeight, ...]]:
    """Concatenate constants and stored weights, each at a multiple of `ALIGNMENT`."""
    weights = bytearray()

    def append(array: np.ndarray) -> int:
        weights.extend(bytes(-len(weights) % ALIGNMENT))
        offset = len(weights)
        weights.extend(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
        return offset

    stored: list[StoredWeight] = []
    packed: set[int] = set()
    for each in program.packed:
        encoded = encode(each, codec)
        if encoded.nbytes < sum(program.constants[number].nbytes for number in each.constants):
            stored.append(store(each, encoded, append))
            packed.update(each.constants)
    constants = [Constant(array.dtype.name, array.shape, 0, 0, PACKED) if number in packed
                 else Constant(array.dtype.name, array.shape, append(array), array.nbytes)
                 for number, array in enumerate(program.constants)]
    return bytes(weights), tuple(constants), tuple(stored)


def _unpack(name: str, data: bytes) -> dict[str, bytes]:
    """The members of an artifact file, none of them larger than the file allows."""
    if not data.startswith(b"PK"):
        raise ArtifactError(f"{name} is not a sparsec artifact; `sparsec compile MODEL.onnx` writes one")
    damaged = f"{name} is damaged; copy it again or compile the model again"
    digest = hashlib.sha256(memoryview(data)[:-_DIGEST_LENGTH]).hexdigest().encode()
    if data[-_DIGEST_LENGTH:] != digest:
        raise ArtifactError(damaged)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if tuple(m.filename for m in members) != MEMBERS:
                raise ArtifactError(damaged)
            if sum(m.file_size for m in members) > _LARGEST_RATIO * len(data):
                raise ArtifactError(damaged)
            return {m.filename: archive.read(m) for m in members}
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, OSError, EOFError) as error:
        raise ArtifactError(damaged) from error


def _parse(name: str, contents: dict[str, bytes]) -> Artifact:
    """The artifact of an unpacked file whose manifest is consistent with its members."""
    try:
        fields = json.loads(contents["manifest.json"])
        schema, written_by, hashes = fields["schema"], fields["sparsec"], fields.pop("sha256")
        if schema != SCHEMA:
            raise ArtifactError(f"{name} has schema {schema} (sparsec {written_by}) and this version reads "
                                f"schema {SCHEMA}; compile the model again")
        manifest = _manifest(fields)
        _check_types(manifest)
        for member in MEMBERS[1:]:
            _require(hashes[member] == hashlib.sha256(contents[member]).hexdigest(), f"{member} has another SHA-256")
        for index, constant in enumerate(manifest.constants):
            _require(_fits(constant, len(contents["weights.bin"])), f"constant {index} does not fit the weights")
        packed = [number for number, constant in enumerate(manifest.constants) if constant.encoding == PACKED]
        for each in manifest.stored:
            _require(fits(each, packed, len(contents["weights.bin"])), "a stored weight does not fit the weights")
        sizes = manifest.objects
        _require(not sizes or (min(sizes) > 0 and sum(sizes) == len(contents["library.bin"])),
                 "the object files are not the library")
        report = json.loads(contents["report.json"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{name} contradicts itself ({error}); compile the model again") from error
    return Artifact(manifest, contents["library.bin"], contents["weights.bin"], contents["graph.onnx"], report)


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - a condition is what an assertion takes
    if not condition:
        raise ValueError(message)


def _manifest(fields: dict[str, Any]) -> Manifest:
    """The manifest of its JSON form."""
    def items(kind: Any, name: str) -> tuple[Any, ...]:
        return tuple(kind(**{**item, "shape": tuple(item["shape"])}) for item in fields[name])

    return Manifest(**{
        **fields,
        "threads": int(fields["threads"]),
        "features": tuple(fields["features"]),
        "inputs": items(TensorSpec, "inputs"),
        "outputs": items(TensorSpec, "outputs"),
        "constants": items(Constant, "constants"),
        "stored": tuple(map(from_json, fields["stored"])),
        "objects": tuple(map(int, fields["objects"])),
    })


def _check_types(manifest: Manifest) -> None:
    """Raises ValueError where names are no texts, or a tensor is none of plain numbers."""
    texts = (manifest.sparsec, manifest.tvm, manifest.platform, manifest.target, manifest.entry, *manifest.features)
    _require(all(isinstance(text, str) for text in texts) and manifest.threads > 0, "a name or number is none")
    for spec in (*manifest.inputs, *manifest.outputs):
        named = isinstance(spec.name, str) and isinstance(spec.dtype, str) and spec.dtype not in ("O", "object")
        _require(named and all(isinstance(size, int) and size >= 0 for size in spec.shape),
                 f"'{spec.name}' is no tensor")


def _fits(constant: Constant, size: int) -> bool:
    """Whether a constant lies aligned within `size` bytes and, where stored raw, has the length of its shape."""
    dtype = np.dtype(constant.dtype)
    end = constant.offset + constant.nbytes
    inside = 0 <= constant.offset <= end <= size and constant.offset % ALIGNMENT == 0
    plain = dtype.kind in "biuf" and min(constant.shape, default=0) >= 0
    exact = constant.encoding != "raw" or math.prod(constant.shape) * dtype.itemsize == constant.nbytes
    return inside and plain and exact and constant.encoding in (*DECODERS, PACKED)
