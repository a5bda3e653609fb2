"""What a model's file says of itself, before anything is converted, folded or mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file.

    Attributes:
        nbytes: of the file and of the external files that its weights lie in.
        opset: of ONNX's own operators, as the file has it; None where it names none.

    """

    nbytes: int
    opset: int | None


def describe(path: Path) -> ModelFile:
    """What a file that `graph.reader.load` has read holds."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(path, load_external_data=False)
    parts = (part for each in model.graph.sparse_initializer for part in (each.values, each.indices))
    locations = {entry.value for tensor in (*model.graph.initializer, *parts) if uses_external_data(tensor)
                 for entry in tensor.external_data if entry.key == "location"}
    files = [path, *(path.parent / location for location in locations)]
    opsets = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    return ModelFile(sum(each.stat().st_size for each in files if each.is_file()), next(iter(opsets), None))


def rewrite_sparse(path: Path) -> None:
    """Replace a file by one whose weights are sparse tensors where that is smaller."""
    import onnx

    from sparsec.graph.writer import save_proto

    save_proto(onnx.load(path), path, sparse=True)
