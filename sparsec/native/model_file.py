"""The file that `libsparsec` reads: an artifact whose weights lie as kernels read them, so that opening it maps a file.

Layout: `BUNDLE`, the version of the layout and the plan's length as little-endian 64-bit numbers, the plan as JSON,
arrays and libraries, each at a multiple of `ALIGNMENT`, and the SHA-256 of everything before it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from sparsec.artifact.container import BUNDLE
from sparsec.artifact.file import Artifact
from sparsec.artifact.manifest import PORTABLE
from sparsec.backends.program import SIZED, STAGES, TensorSpec
from sparsec.backends.registry import backend_named
from sparsec.errors import UsageError
from sparsec.graph.shapes import SIZED_BY_VALUES
from sparsec.machine.memory import ALIGNMENT, HOST
from sparsec.native.sized import WAYS, sized_plan
from sparsec.native.types import carrier_number, type_number
from sparsec.runtime.sized.sizes import text_of

VERSION = 1
FEW = 4
"""Nodes that a refusal names."""
MOST_DIMENSIONS = 8
"""Of an input or output: `SPARSEC_MAX_RANK` of the C interface."""

_HEADER = struct.Struct("<8sQQ")


class Blob:
    """What follows the plan: pieces of bytes, each at a multiple of `ALIGNMENT`, every content once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._places: dict[bytes, list[int]] = {}

    def add(self, content: bytes | memoryview) -> list[int]:
        """Where some bytes lie, as offset and length."""
        digest = hashlib.sha256(content).digest()
        if digest not in self._places:
            self.data.extend(bytes(-len(self.data) % ALIGNMENT))
            self._places[digest] = [len(self.data), len(content)]
            self.data.extend(content)
        return self._places[digest]

    def array(self, array: np.ndarray) -> dict[str, Any]:
        """The entry of an array."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return {"dtype": carrier_number(array.dtype.name), "shape": list(array.shape), "data": self.add(data)}


def model_bytes(artifact: Artifact) -> bytes:
    """The file of an artifact.

    Raises:
        UsageError: it holds no program for processors, or one with steps that only Python runs; names them.

    """
    _check(artifact)
    manifest, blob = artifact.manifest, Blob()
    plan: dict[str, Any] = {
        "sparsec": manifest.sparsec, "platform": manifest.platform, "target": manifest.target,
        "ffi": importlib.metadata.version("apache-tvm-ffi"), "features": list(manifest.features),
        "threads": manifest.threads}
    if manifest.entry == SIZED:
        plan["sized"] = sized_plan(artifact, blob.add, blob.array)
        plan["buckets"] = [{"inputs": described_inputs(artifact), "outputs": described_outputs(artifact)}]
    else:
        plan["buckets"] = [_bucket(each, blob) for each in artifact.buckets]
    return _joined(plan, blob.data)


def _joined(plan: Mapping[str, Any], data: bytearray) -> bytes:
    """The file of a plan and what it refers to."""
    text = json.dumps(plan, separators=(",", ":")).encode()
    text += b" " * (-(_HEADER.size + len(text)) % ALIGNMENT)  # so that the data is aligned
    contents = b"".join((_HEADER.pack(BUNDLE, VERSION, len(text)), text, data))
    return contents + hashlib.sha256(contents).digest()


def _check(artifact: Artifact) -> None:
    """Refuse what `libsparsec` does not run."""
    manifest = artifact.manifest
    if manifest.entry == STAGES:
        raise UsageError("the artifact runs by Python, for values say how large things are: "
                         f"{_sized_by_values(artifact)}; {WAYS}")
    if manifest.target == PORTABLE:
        raise UsageError("the artifact is portable and holds no native code; compile the model without --portable")
    backend = backend_named(manifest.target)
    if (not artifact.library and manifest.entry != SIZED) or backend.memory(manifest.needs) is not HOST:
        raise UsageError(f"the artifact was compiled for '{manifest.target}', and bundles run on processors; compile "
                         "the model with --target cpu, cpu-avx512, cpu-avx2 or cpu-generic")
    if any(each.manifest.objects for each in artifact.buckets):
        raise UsageError(f"the artifact was compiled where there is no linker for {manifest.platform}; compile it "
                         "where ld.lld, or ld or gcc for that processor, is installed")
    for spec in (*manifest.inputs, *manifest.outputs):
        if len(spec.shape) > MOST_DIMENSIONS:
            raise UsageError(f"'{spec.name}' has {len(spec.shape)} dimensions; the C interface has up to "
                             f"{MOST_DIMENSIONS}")


def _sized_by_values(artifact: Artifact) -> str:
    """What makes an artifact one of stages: nodes with their operators."""
    noted = {each["layer"]: each["operator"] for each in artifact.report.get("outside", ()) if each.get("operator")}
    nodes = [node for node in onnx.ModelProto.FromString(artifact.graph).graph.node if node.op_type in SIZED_BY_VALUES]
    noted |= {node.name or node.output[0]: node.op_type for node in nodes}
    named = ", ".join(f"'{name}' ({operator})" for name, operator in [*noted.items()][:FEW])
    return (named or "a part") + (f" and {len(noted) - FEW} more" if len(noted) > FEW else "")


def _bucket(artifact: Artifact, blob: Blob) -> dict[str, Any]:
    """One program with its constants."""
    manifest = artifact.manifest
    return {"entry": manifest.entry, "parts": manifest.parts, "library": blob.add(artifact.library),
            "constants": [blob.array(array) for array in artifact.constants()],
            "inputs": _specs(manifest.inputs), "outputs": _specs(manifest.outputs)}


def _specs(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "dtype": type_number(spec.dtype), "shape": list(spec.shape)} for spec in specs]


def described_inputs(artifact: Artifact) -> list[dict[str, Any]]:
    """The inputs: name, number of the element type, shape; a size that the run tells, or that buckets differ in, is a
    text as sessions give it.
    """
    return _described(artifact, "inputs", [each.manifest.inputs for each in artifact.buckets])


def described_outputs(artifact: Artifact) -> list[dict[str, Any]]:
    """The outputs, as the inputs."""
    return _described(artifact, "outputs", [each.manifest.outputs for each in artifact.buckets])


def _described(artifact: Artifact, side: str, buckets: Sequence[Sequence[TensorSpec]]) -> list[dict[str, Any]]:
    described = _specs(buckets[0])
    if artifact.manifest.entry == SIZED:
        plan, *_ = artifact.constants()
        for spec, sized in zip(described, json.loads(plan.tobytes())[side], strict=True):
            spec["shape"] = [dim if isinstance(dim, int | str) else text_of(dim) for dim in sized["shape"]]
        return described
    for spec, *others in zip(described, *buckets, strict=True):
        sizes = [sorted(set(dims)) for dims in zip(*(each.shape for each in others), strict=True)]
        spec["shape"] = [dims[0] if len(dims) == 1 else "/".join(map(str, dims)) for dims in sizes]
    return described
