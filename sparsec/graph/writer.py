"""Writing a graph as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from sparsec import files
from sparsec.graph.sparse import sparsify

INLINE_LIMIT = 1 << 30  # protobuf ends at 2 GiB, and a file this large is better mapped than parsed


def save(model: ir.Model, path: str | Path, *, sparse: bool = False) -> None:
    """Writes the model to `path`; weights of more than 1 GiB in all go to `<path>.data` beside it.

    With `sparse`, weights that take fewer bytes so are written as ONNX's sparse tensors, in the file itself.

    Raises:
        OSError: the file cannot be written.

    """
    total = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if total > INLINE_LIMIT and not sparse:
        ir.save(model, path, external_data=f"{Path(path).name}.data")
        return
    proto = ir.to_proto(model)
    if sparse:
        sparsify(proto)
    files.write(path, proto.SerializeToString(deterministic=True))


def save_proto(proto: onnx.ModelProto, path: str | Path) -> None:
    """Writes a model that is held as it stands in its file; large ones as `save` does.

    Raises:
        OSError: the file cannot be written.

    """
    if proto.ByteSize() > INLINE_LIMIT:
        save(ir.from_proto(proto), path)
    else:
        files.write(path, proto.SerializeToString(deterministic=True))
