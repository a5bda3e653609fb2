"""The artifact: one file that holds a compiled model and everything its execution needs.

`model.sparsec` is a zip of the members in `MEMBERS`, without pickles. `manifest.json` says what the program needs and
gives the SHA-256 of every other member; the zip's comment is the SHA-256 of all bytes before it, so that no byte of the
file can change unnoticed. Equal content gives equal bytes. Where a model was compiled for several shapes, the buckets
after the first have members of their own, "1/manifest.json" and so on, and the weights in common.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import sysconfig
import zipfile
import zlib
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any

import msgspec
import numpy as np

from sparsec import files
from sparsec.artifact import signing
from sparsec.artifact.manifest import DECODERS, PACKED, READABLE, SCHEMA, Constant, Manifest, check, read, require
from sparsec.artifact.stored import StoredWeight, encode, is_affordable, restore, store
from sparsec.backends.program import SIZED, STAGES, Program
from sparsec.errors import ArtifactError, FormatError, SignatureError, UsageError
from sparsec.machine import tvm_runtime
from sparsec.machine.memory import ALIGNMENT
from sparsec.target import Target, machine_features

MEMBERS = ("manifest.json", "library.bin", "weights.bin", "graph.onnx", "report.json")
SHARED = "weights.bin"
"""The member that all buckets have in common."""

MOST_BUCKETS = 64
MOST_ROWS = 200  # that a notebook shows

MAGIC = b"PK"  # of zip files
_DIGEST_LENGTH = hashlib.sha256().digest_size * 2
_JSON_BYTES = 8 << 20  # of text, whose objects take up to 24 times as much memory
_ISA_PREFIXES = ("sse4", "avx", "fma", "f16c", "amx", "abm", "adx", "bmi", "gfni", "movbe")


@dataclass(frozen=True)
class Artifact:
    """A compiled model.

    Attributes:
        manifest: what it needs and offers.
        library: the compiled code: a shared object, or object files one after the other.
        weights: the constants, each as its entry in the manifest says.
        graph: the final graph as ONNX, without large weights; for looking at.
        report: JSON-serialisable: the plan's table and the result of the verification.
        others: the same model compiled for other shapes, with the same `weights`.

    """

    manifest: Manifest
    library: bytes
    weights: bytes
    graph: bytes
    report: dict[str, Any]
    others: tuple[Artifact, ...] = ()

    def __repr__(self) -> str:
        """One line, however large the model."""
        manifest = self.manifest
        signature = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in manifest.inputs)
        buckets = f", {len(self.buckets)} buckets" if self.others else ""
        return (f"<sparsec.Artifact for {manifest.target}, {manifest.threads} thread(s), inputs {signature}{buckets}, "
                f"{len(self.library) + len(self.weights):,} bytes>")

    def _repr_html_(self) -> str:
        """The line and the table of the layers, for notebooks."""
        columns = ("layer", "shape", "format", "kernel", "bytes")
        rows = ([layer.get(name, "") for name in columns] for layer in self.report.get("layers", []))
        lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
        head = "".join(f"<th>{name}</th>" for name in columns)
        return (f"<p>{escape(repr(self))}</p><table><tr>{head}</tr>"
                f"{''.join(f'<tr>{line}</tr>' for line in lines[:MOST_ROWS])}</table>"
                + (f"<p>and {len(lines) - MOST_ROWS} more layers</p>" if len(lines) > MOST_ROWS else ""))

    @property
    def buckets(self) -> tuple[Artifact, ...]:
        """One artifact for every combination of shapes that the model was compiled for."""
        return (replace(self, others=()), *self.others) if self.others else (self,)

    @classmethod
    def build(cls, program: Program, target: Target, threads: int, graph: bytes, report: dict[str, Any],
              codec: str = "f32") -> Artifact:
        """The artifact of a compiled program; `codec` stores the values of its packed weights."""
        weights, constants, stored = _lay_out(program, codec)
        manifest = Manifest(
            schema=SCHEMA,
            sparsec=importlib.metadata.version("sparsec"),
            tvm=tvm_runtime.version(),
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
            needs=program.needs,
            parts=program.parts,
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
        except (FormatError, LookupError, TypeError, ValueError, ArithmeticError, StopIteration, MemoryError) as error:
            raise ArtifactError(f"a stored weight contradicts itself ({error}); compile the model again") from error

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        contents = {SHARED: self.weights}
        for index, bucket in enumerate(self.buckets):
            contents |= {_name(member, index): data for member, data in _members(bucket).items()}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in _names(len(self.buckets)):
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o644 << 16
                info.compress_type = zipfile.ZIP_STORED if name == SHARED else zipfile.ZIP_DEFLATED
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
            files.write(path, self.to_bytes())
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
        if not isinstance(source, str | os.PathLike | bytes):
            raise UsageError(f"artifact is of type {type(source).__name__}; give an Artifact, its file's path or its "
                             "bytes")
        name = "the artifact" if isinstance(source, bytes) else os.fspath(source)
        try:
            data = source if isinstance(source, bytes) else files.read_regular(source)
        except OSError as error:
            raise ArtifactError(f"cannot read {name}: {error.strerror}") from error
        if require_signature is not None:
            if isinstance(source, bytes):
                raise SignatureError("a signature lies beside a file; load the artifact by its path to check one")
            signing.check(data, source, require_signature)
        return _parse(name, _unpack(name, data), files.budget(len(data)))

    def check_machine(self) -> None:
        """Check that this machine and its TVM runtime can execute the program.

        Raises:
            ArtifactError: they cannot; says what to compile instead.

        """
        here, tvm = sysconfig.get_platform(), tvm_runtime.version()
        if not self.library and self.manifest.entry not in (SIZED, STAGES):
            raise ArtifactError(f"the artifact was compiled for '{self.manifest.target}', which is not a processor; "
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


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _checked(array: np.ndarray, constant: Constant) -> np.ndarray:
    """A packed array of the type and shape that the library was compiled for."""
    require(array.dtype.name == constant.dtype and array.shape == constant.shape, "an array has another shape")
    return array


def _lay_out(program: Program, codec: str) -> tuple[bytes, tuple[Constant, ...], tuple[StoredWeight, ...]]:
    """Concatenate constants and stored weights, each at a multiple of `ALIGNMENT`."""
    weights = bytearray()

    def append(array: np.ndarray) -> int:
        weights.extend(bytes(-len(weights) % ALIGNMENT))
        offset = len(weights)
        weights.extend(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return offset

    stored: list[StoredWeight] = []
    packed: set[int] = set()
    for each in program.packed:
        encoded = encode(each, codec)
        smaller = encoded.nbytes < sum(program.constants[number].nbytes for number in each.constants)
        elements = max(each.weight.size, each.recipe.elements(*each.weight.shape))
        if smaller and is_affordable(elements, files.budget(encoded.nbytes)):
            stored.append(store(each, encoded, append))
            packed.update(each.constants)
    constants = [Constant(array.dtype.name, array.shape, 0, 0, PACKED) if number in packed
                 else Constant(array.dtype.name, array.shape, append(array), array.nbytes)
                 for number, array in enumerate(program.constants)]
    return bytes(weights), tuple(constants), tuple(stored)


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as an artifact does; raises OSError where it cannot be read."""
    return files.read_regular(path, len(MAGIC)) == MAGIC


def _unpack(name: str, data: bytes) -> dict[str, bytes]:
    """The members of an artifact file, none of them larger than the file allows."""
    if not data.startswith(MAGIC):
        raise ArtifactError(f"{name} is not a sparsec artifact; `sparsec compile MODEL.onnx` writes one")
    damaged = f"{name} is damaged; copy it again or compile the model again"
    digest = hashlib.sha256(memoryview(data)[:-_DIGEST_LENGTH]).hexdigest().encode()
    if data[-_DIGEST_LENGTH:] != digest:
        raise ArtifactError(damaged)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            buckets = (len(members) - 1) // (len(MEMBERS) - 1)
            if buckets > MOST_BUCKETS or [m.filename for m in members] != _names(buckets):
                raise ArtifactError(damaged)
            files.check_members(archive, files.LARGEST_RATIO * len(data))
            if sum(m.file_size for m in members if m.filename.endswith(".json")) > max(_JSON_BYTES, 2 * len(data)):
                raise ArtifactError(f"{name}: its manifest and report take over {_JSON_BYTES} bytes, more than "
                                    "sparsec writes; compile the model again")
            return {m.filename: archive.read(m) for m in members}
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, OSError, EOFError) as error:
        raise ArtifactError(damaged) from error


def _name(member: str, index: int) -> str:
    """What a bucket's member is called in the file."""
    return member if member == SHARED or not index else f"{index}/{member}"


def _names(buckets: int) -> list[str]:
    """The members of a file of so many buckets, in order."""
    return [*MEMBERS, *(_name(member, index) for index in range(1, buckets) for member in MEMBERS if member != SHARED)]


def _members(artifact: Artifact) -> dict[str, bytes]:
    """What a bucket's members but for the weights hold."""
    contents = {"library.bin": artifact.library, "graph.onnx": artifact.graph,
                "report.json": _json_bytes(artifact.report)}
    hashes = {name: hashlib.sha256(data).hexdigest()
              for name, data in {**contents, SHARED: artifact.weights}.items()}
    return {**contents, "manifest.json": _json_bytes({**asdict(artifact.manifest), "sha256": hashes})}


def _parse(name: str, contents: dict[str, bytes], most: int) -> Artifact:
    """The artifact of an unpacked file whose manifests are consistent with its members."""
    hashes = {member: hashlib.sha256(data).hexdigest() for member, data in contents.items()}
    try:
        first, *others = (_parse_bucket(name, contents, hashes, index, most)
                          for index in range((len(contents) - 1) // (len(MEMBERS) - 1)))
        require(all(_ranks(each) == _ranks(first) for each in others), "its buckets differ in more than sizes")
    except (FormatError, msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
            RecursionError) as error:
        raise ArtifactError(f"{name} contradicts itself ({error}); compile the model again") from error
    return replace(first, others=tuple(others)) if others else first


def _ranks(bucket: Artifact) -> list[tuple[str, str, int]]:
    """What the tensors of all buckets of a model have in common."""
    tensors = *bucket.manifest.inputs, *bucket.manifest.outputs
    return [(spec.name, spec.dtype, len(spec.shape)) for spec in tensors]


def _parse_bucket(name: str, contents: dict[str, bytes], hashes: dict[str, str], index: int,
                  most: int) -> Artifact:
    """One bucket of a file; raises KeyError, TypeError, ValueError and the like where it contradicts itself."""
    fields = msgspec.json.decode(contents[_name("manifest.json", index)])
    require(isinstance(fields, dict), "its manifest is not a JSON object")
    schema, written_by, expected = fields["schema"], fields["sparsec"], fields.pop("sha256")
    if schema not in READABLE:
        raise ArtifactError(f"{name} has schema {schema} (sparsec {written_by}) and this version reads "
                            f"schemas {' and '.join(map(str, READABLE))}; compile the model again")
    manifest = read(fields)
    for member in MEMBERS[1:]:
        require(expected[member] == hashes[_name(member, index)], f"{_name(member, index)} has another SHA-256")
    library, weights, graph, report = (contents[_name(member, index)] for member in MEMBERS[1:])
    check(manifest, len(library), len(weights), most)
    described = json.loads(report)
    require(isinstance(described, dict), "its report is not a JSON object")
    return Artifact(manifest, library, weights, graph, described)
