"""Writing a graph as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

INLINE_LIMIT = 1 << 30  # protobuf ends at 2 GiB, and a file this large is better mapped than parsed


def save(model: ir.Model, path: str | Path) -> None:
    """Writes the model to `path`; weights of more than 1 GiB in all go to `<path>.data` beside it.

    Raises:
        OSError: the file cannot be written.

    """
    total = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, path, external_data=f"{Path(path).name}.data" if total > INLINE_LIMIT else None)
