"""The folder of a model in a repository of NVIDIA's Triton Inference Server, for its Python backend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sparsec import files
from sparsec.artifact.file import Artifact
from sparsec.errors import UsageError
from sparsec.runtime.session import InferenceSession
from sparsec.runtime.signature import TensorInfo
from sparsec.serving import triton_model
from sparsec.serving.batching import why_not_together
from sparsec.serving.datatypes import DATATYPES

CONFIG, VERSION, PROGRAM = "config.pbtxt", "1", "model.py"
WITHOUT_ARRAYS = ("bfloat16",)
"""Element types that Triton has and its Python backend makes no arrays of."""


def write_triton(artifact: Artifact, folder: Path, threads: int | None = None, rows: int = 32) -> str | None:
    """Write the folder of an artifact; an earlier one's first version there is replaced.

    Args:
        artifact: that runs on this machine, since runs show whether requests may be rows of one run.
        folder: new, empty or of a model of Triton; its name is the model's.
        threads: of each instance; None for as many as the artifact was compiled for and the machine has.
        rows: the most that Triton may run together; 1 for each request by itself.

    Returns:
        Why each request runs by itself, None where Triton runs them together.

    Raises:
        UsageError: the folder holds something else, or the model has types that the backend has not.
        SparsecError: as opening the artifact raises.

    """
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} holds something that is not a model of Triton; give a new folder")
    with InferenceSession(artifact, threads) as session:
        reason = why_not_together(session) if rows > 1 else "one row at a time was asked for"
        config = config_of(session.get_inputs(), session.get_outputs(), 0 if reason else rows, threads)
    version = folder / VERSION
    version.mkdir(parents=True, exist_ok=True)
    artifact.save(version / triton_model.ARTIFACT)
    files.write(version / PROGRAM, Path(triton_model.__file__).read_bytes())
    files.write(folder / CONFIG, config.encode())
    return reason


def config_of(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], rows: int, threads: int | None) -> str:
    """Triton's description of a model, as its protobuf's text.

    Args:
        inputs: of the session.
        outputs: of the session.
        rows: that one run may take of several requests; 0 where the first size is not one of rows.
        threads: of each instance, None for the artifact's.

    Raises:
        UsageError: an element type that Triton's Python backend has not.

    """
    parts = ['backend: "python"', f"max_batch_size: {rows}", *(_tensor("input", each, rows) for each in inputs),
             *(_tensor("output", each, rows) for each in outputs), "instance_group [ { kind: KIND_CPU count: 1 } ]"]
    if rows:
        parts.append("dynamic_batching { }")
    if threads is not None:
        parts.append(f'parameters {{ key: "{triton_model.THREADS}" value: {{ string_value: "{threads}" }} }}')
    return "\n".join(parts) + "\n"


def _tensor(side: str, info: TensorInfo, rows: int) -> str:
    """An input or output: its sizes behind the rows, -1 where a request may choose; a number is one element."""
    kind = DATATYPES.get(info.dtype.name)
    if kind is None or info.dtype.name in WITHOUT_ARRAYS:
        raise UsageError(f"'{info.name}' is a {info.type}, and Triton's Python backend has no such arrays; compile a "
                         "model whose inputs and outputs are float32")
    sizes = [size if isinstance(size, int) else -1 for size in info.shape[1 if rows else 0:]]
    dims = ", ".join(map(str, sizes)) or "1"
    reshape = "" if sizes else " reshape: { shape: [ ] }"
    return (f"{side} [ {{ name: {json.dumps(info.name, ensure_ascii=False)} data_type: TYPE_{kind} "
            f"dims: [ {dims} ]{reshape} }} ]")
