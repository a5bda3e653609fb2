"""The artifact: one file that holds a compiled model and everything its execution needs.

`model.sparsec` is a zip of the members in `MEMBERS`, without pickles. `manifest.json` says what the program needs and
gives the SHA-256 of every other member; the zip's comment is the SHA-256 of all bytes before it, so that no byte of the
file can change unnoticed. Equal content gives equal bytes. Where a model was compiled for several shapes, the buckets
after the first have members of their own, "1/manifest.json" and so on, and the weights in common.

Files of `container.MAPPED_BYTES` and more are not read when they are opened: their weights are mapped, and `verify`
checks the hash of these.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

import msgspec
import numpy as np

from sparsec import files
from sparsec.artifact import container, signing
from sparsec.artifact.container import MEMBERS, SHARED
from sparsec.artifact.manifest import DECODERS, PACKED, READABLE, SCHEMA, Constant, Manifest, check, read, require
from sparsec.artifact.stored import StoredWeight, encode, is_affordable, restore, store
from sparsec.artifact.weights import Layout, Weights
from sparsec.backends.program import SIZED, STAGES, Program
from sparsec.errors import ArtifactError, FormatError, SignatureError, UsageError, counted
from sparsec.machine import tvm_runtime
from sparsec.target import Target, machine_features

MOST_ROWS = 200  # that a notebook shows

_ISA_PREFIXES = ("sse4", "avx", "fma", "f16c", "amx", "abm", "adx", "bmi", "gfni", "movbe",  # x86
                 "asimd", "fphp", "bf16", "i8mm", "sve")


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
    weights: Weights
    graph: bytes
    report: dict[str, Any]
    others: tuple[Artifact, ...] = ()

    def __repr__(self) -> str:
        """One line, however large the model."""
        manifest = self.manifest
        signature = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in manifest.inputs)
        buckets = f", {len(self.buckets)} buckets" if self.others else ""
        return (f"<sparsec.Artifact for {manifest.target}, {counted(manifest.threads, 'thread')}, inputs {signature}"
                f"{buckets}, {len(self.library) + len(self.weights):,} bytes>")

    def _repr_html_(self) -> str:
        """The line and the table of the layers, for notebooks."""
        from html import escape

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
            platform=_platform(target),
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
            workspace=program.workspace,
        )
        return cls(manifest, program.library, weights, graph, report)

    def constants(self) -> list[np.ndarray]:
        """Every constant as the kernels read it, in the order of the entry function's arguments.

        Raises:
            ArtifactError: a stored weight is not what the constants are made of.

        """
        data = self.weights
        packed: dict[int, np.ndarray] = {}
        try:
            for each in self.manifest.stored:
                packed |= restore(each, data)
            return [_checked(packed[number], c) if c.encoding == PACKED
                    else DECODERS[c.encoding](data.part(c.offset, c.nbytes), c)
                    for number, c in enumerate(self.manifest.constants)]
        except (FormatError, LookupError, TypeError, ValueError, ArithmeticError, StopIteration, MemoryError) as error:
            raise ArtifactError(f"a stored weight contradicts itself ({error}); compile the model again") from error

    def write(self, file: IO[bytes]) -> None:
        """Write the file's bytes into an empty file that can be read and sought in, a few at a time."""
        weights_hash = self.weights.sha256()
        members: dict[str, bytes] = {}
        for index, bucket in enumerate(self.buckets):
            members |= {container.name_of(name, index): data for name, data in _members(bucket, weights_hash).items()}
        container.write(file, members, self.weights)

    def __reduce__(self) -> tuple[Callable[[bytes], Artifact], tuple[bytes]]:
        """As the file's bytes, so that other processes may be handed it: mapped weights cannot be pickled."""
        return Artifact.load, (self.to_bytes(),)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        buffer = io.BytesIO()
        self.write(buffer)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; readers of `path` see the old file or the whole new one.

        Raises:
            ArtifactError: it cannot be written; a file that was there is as it was.

        """
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"path is of type {type(path).__name__}; give the name of the file to write")
        try:
            files.write_by(path, self.write)
        except OSError as error:
            raise ArtifactError(f"cannot write {path}: {error.strerror}; what was there before is untouched") from error

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes, *,
             require_signature: str | os.PathLike[str] | None = None, whole: bool = False) -> Artifact:
        """Open an artifact from a file or its bytes.

        Files of less than `container.MAPPED_BYTES`, bytes, and files whose signature is required are read and checked
        to the last byte. Of larger files the weights are mapped: everything else is checked against its hash.

        Args:
            source: what to read.
            require_signature: the file of a public key; the signature beside `source`, a path, must be its owner's.
            whole: check the weights' hash, too, however large the file.

        Raises:
            ArtifactError: it is no artifact, damaged, or of another schema.
            SignatureError: the required signature is missing or wrong; nothing was unpacked.

        """
        if not isinstance(source, str | os.PathLike | bytes):
            raise UsageError(f"artifact is of type {type(source).__name__}; give an Artifact, its file's path or its "
                             "bytes")
        if isinstance(source, bytes):
            if require_signature is not None:
                raise SignatureError("a signature lies beside a file; load the artifact by its path to check one")
            name = "the artifact"
            return _parse(name, container.read(name, source))
        name = os.fspath(source)
        try:
            if require_signature is not None:
                data = container.in_memory(source)
                signing.check(data, source, require_signature)
                return _parse(name, container.read(name, data))
            if files.check_regular(source).st_size >= container.MAPPED_BYTES:
                return _parse(name, container.open_mapped(source, whole=whole))
            return _parse(name, container.read(name, files.read_regular(source)))
        except OSError as error:
            raise ArtifactError(f"cannot read {name}: {error.strerror}") from error

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
                                f"or with --target {_simpler(self.manifest.platform)}")
        if self.manifest.tvm.split(".")[:2] != tvm.split(".")[:2]:
            raise ArtifactError(f"the artifact needs the runtime of TVM {self.manifest.tvm} and {tvm} is installed; "
                                f"install apache-tvm=={self.manifest.tvm} or compile the model again")


def _simpler(platform: str) -> str:
    """Targets of few instructions, for a platform."""
    return "cpu-neon" if platform.endswith("aarch64") else "cpu-avx2 or cpu-generic"


def _platform(target: Target) -> str:
    """Where a target's programs run: this platform, but for those of another architecture."""
    here = sysconfig.get_platform()
    return here if target.kind != "cpu" or here.endswith(target.machine) else f"linux-{target.machine}"


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _checked(array: np.ndarray, constant: Constant) -> np.ndarray:
    """A packed array of the type and shape that the library was compiled for."""
    require(array.dtype.name == constant.dtype and array.shape == constant.shape, "an array has another shape")
    return array


def _lay_out(program: Program, codec: str) -> tuple[Weights, tuple[Constant, ...], tuple[StoredWeight, ...]]:
    """Where constants and stored weights lie."""
    layout = Layout()
    stored: list[StoredWeight] = []
    packed: set[int] = set()
    for each in program.packed:
        encoded = encode(each, codec)
        smaller = encoded.nbytes < sum(program.constants[number].nbytes for number in each.constants)
        elements = max(each.weight.size, each.recipe.elements(*each.weight.shape))
        if smaller and is_affordable(elements, files.budget(encoded.nbytes)):
            stored.append(store(each, encoded, layout.append))
            packed.update(each.constants)
    constants = [Constant(array.dtype.name, array.shape, 0, 0, PACKED) if number in packed
                 else Constant(array.dtype.name, array.shape, layout.append(array), array.nbytes)
                 for number, array in enumerate(program.constants)]
    return layout.weights(), tuple(constants), tuple(stored)


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as an artifact does; raises OSError where it cannot be read."""
    return files.read_regular(path, len(container.MAGIC)) == container.MAGIC


def _members(artifact: Artifact, weights_hash: str) -> dict[str, bytes]:
    """What a bucket's members but for the weights hold."""
    contents = {"library.bin": artifact.library, "graph.onnx": artifact.graph,
                "report.json": _json_bytes(artifact.report)}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()} | {SHARED: weights_hash}
    return {"manifest.json": _json_bytes({**asdict(artifact.manifest), "sha256": hashes}), **contents}


def _parse(name: str, contents: container.Contents) -> Artifact:
    """The artifact of an unpacked file whose manifests are consistent with its members."""
    hashes: dict[str, str | None] = {member: hashlib.sha256(data).hexdigest()
                                     for member, data in contents.members.items()}
    hashes[SHARED] = contents.weights_sha256
    try:
        first, *others = (_parse_bucket(name, contents, hashes, index)
                          for index in range(len(contents.members) // (len(MEMBERS) - 1)))
        require(all(_ranks(each) == _ranks(first) for each in others), "its buckets differ in more than sizes")
    except (FormatError, msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
            RecursionError) as error:
        raise ArtifactError(f"{name} contradicts itself ({error}); compile the model again") from error
    return replace(first, others=tuple(others)) if others else first


def _ranks(bucket: Artifact) -> list[tuple[str, str, int]]:
    """What the tensors of all buckets of a model have in common."""
    tensors = *bucket.manifest.inputs, *bucket.manifest.outputs
    return [(spec.name, spec.dtype, len(spec.shape)) for spec in tensors]


def _parse_bucket(name: str, contents: container.Contents, hashes: Mapping[str, str | None],
                  index: int) -> Artifact:
    """One bucket of a file; raises KeyError, TypeError, ValueError and the like where it contradicts itself."""
    own = {member: contents.members[container.name_of(member, index)] for member in MEMBERS if member != SHARED}
    fields = msgspec.json.decode(own["manifest.json"])
    require(isinstance(fields, dict), "its manifest is not a JSON object")
    schema, written_by, expected = fields["schema"], fields["sparsec"], fields.pop("sha256")
    if schema not in READABLE:
        raise ArtifactError(f"{name} has schema {schema} (sparsec {written_by}) and this version reads "
                            f"schemas {' and '.join(map(str, READABLE))}; compile the model again")
    manifest = read(fields)
    for member in MEMBERS[1:]:
        member_name = container.name_of(member, index)
        found = hashes[member_name]
        require(found is None or expected[member] == found, f"{member_name} has another SHA-256")
    library, graph = own["library.bin"], own["graph.onnx"]
    check(manifest, len(library), len(contents.weights), files.budget(contents.nbytes))
    described = json.loads(own["report.json"])
    require(isinstance(described, dict), "its report is not a JSON object")
    return Artifact(manifest, library, contents.weights, graph, described)
