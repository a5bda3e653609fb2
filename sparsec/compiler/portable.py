"""Artifacts without native code: the model itself, to be compiled on the machine that opens it.

A portable artifact is an artifact of target `portable`: no library, no constants, and the whole ONNX model with its
weights as the graph. Opening one runs the compiler, which must be installed, and nothing of the file is executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec import files
from sparsec.artifact.container import MOST_BUCKETS
from sparsec.artifact.file import Artifact
from sparsec.artifact.manifest import PORTABLE
from sparsec.backends.program import Program, TensorSpec
from sparsec.compiler.options import CompileOptions, not_carried
from sparsec.compiler.samples import advised
from sparsec.cost.tuning import default_path
from sparsec.errors import ArtifactError, ShapeError
from sparsec.graph import reader
from sparsec.graph.metadata import metadata_of
from sparsec.graph.shapes import static_shape
from sparsec.graph.sizes import bound_dims, buckets, check_dims
from sparsec.machine import cpus
from sparsec.target import Target, machine_features, machine_name

TARGET = Target(PORTABLE, PORTABLE, vector_bits=0)
LARGEST = 2**31 - 2**20
"""Bytes of weights: protobuf ends at 2 GiB."""


def pack(model: reader.Source, options: CompileOptions) -> Artifact:
    """The portable artifact of a model, which is compiled with these arguments of `sparsec.compile`.

    Those that belong to the machine that compiles are not carried; see `CompileOptions.to_json`.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.
        UsageError: an argument has a value that it cannot take.
        ArtifactError: the model's weights take over 2 GiB.

    """
    graph = reader.load(model, symbolic=True)
    dims = options.dims or {}
    check_dims(graph, dims, options.shapes)
    shapes = buckets(graph, options.shapes or {}, MOST_BUCKETS)[0]
    inputs = reader.load(model, shapes=shapes, dims=bound_dims(dims), symbolic=True).graph.inputs
    open_sizes = dict.fromkeys(str(dim.value) for value in inputs for dim in value.shape or ()
                               if isinstance(dim, ir.SymbolicDim) and dim.value)
    if open_sizes:
        raise ShapeError("a portable artifact takes fixed sizes, and the model leaves "
                         f"{', '.join(map(repr, open_sizes))} open; give one size to each, as in "
                         f"dims={advised(inputs, {})}, or buckets by shapes")
    bound = reader.load(model, shapes=shapes, dims=bound_dims(dims)).graph
    total = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value)
    if total > LARGEST:
        raise ArtifactError(f"the model's weights take {total} bytes and a portable artifact holds at most {LARGEST}; "
                            "compile it for a processor instead")
    program = Program(b"", "main", (), _specs(bound.inputs), _specs(bound.outputs))
    content: bytes = ir.to_proto(graph).SerializeToString(deterministic=True)
    report: dict[str, object] = {"layers": [], "outside": [], "passes": [], "strip": None, "verification": None,
                                 "metadata": metadata_of(graph), "options": options.to_json()}
    return Artifact.build(program, TARGET, options.threads, content, report)


def is_portable(artifact: Artifact) -> bool:
    """Whether the artifact holds a model in place of native code."""
    return artifact.manifest.target == TARGET.name


def build(artifact: Artifact, **options: Any) -> Artifact:
    """Compile a portable artifact for the machine at hand; other artifacts are returned as they are.

    Args:
        artifact: what was opened.
        options: further arguments of `sparsec.compile`, such as `tune`, in place of those that it was packed with.

    Raises:
        ArtifactError: it has no compile options, or some that this version does not know.
        SparsecError: as `sparsec.compile` does.

    """
    if not is_portable(artifact):
        return artifact
    from sparsec.compiler.compile import compile as compile_model

    carried = artifact.report.get("options")
    if not isinstance(carried, dict):
        raise ArtifactError("the portable artifact has no compile options; pack the model again")
    if unknown := not_carried(carried):
        raise ArtifactError("the portable artifact has compile options that this version does not know: "
                            f"{', '.join(unknown)}; pack the model again")
    threads = min(artifact.manifest.threads, cpus.available())
    return compile_model(artifact.graph, **{**carried, "threads": threads, **options})


def build_once(artifact: Artifact) -> Artifact:
    """`build`, or what it made of the same artifact before: it is kept in the user's cache, as long as that can be.

    Raises:
        ArtifactError, SparsecError: as `build`.

    """
    if not is_portable(artifact):
        return artifact
    path = kept_path(artifact)
    if files.is_own(path):  # it is native code
        with contextlib.suppress(ArtifactError):  # damaged: it is made anew
            return Artifact.load(path)
    built = build(artifact)
    with contextlib.suppress(OSError, ArtifactError):  # a cache that cannot be written costs time, not results
        files.make_own(path.parent)
        built.save(path)
    return built


def kept_path(artifact: Artifact) -> Path:
    """Where the cache keeps what an artifact becomes on this machine, with these versions."""
    parts = [machine_name(), sorted(machine_features()), min(artifact.manifest.threads, cpus.available()),
             artifact.report.get("options"),
             [importlib.metadata.version(name) for name in ("sparsec", "apache-tvm")]]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode() + artifact.graph).hexdigest()
    return default_path().with_name("compiled") / f"{digest[:32]}.sparsec"


def _specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(value.name or "", value.dtype.numpy().name if value.dtype else "float32",
                            static_shape(value) or ()) for value in values)
