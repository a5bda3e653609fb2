"""A model file as a message of ONNX's, as it stands there, with the tensors of external files in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from sparsec import files


def read_proto(path: Path) -> onnx.ModelProto:
    """The model of a file that `reader.load` has checked.

    Raises:
        OSError: an external file is missing, or no regular one.
        ValueError: it is shorter than its tensors, or lies outside of the model's folder.

    """
    model: onnx.ModelProto = onnx.ModelProto.FromString(files.read_regular(path))
    follow_links(model, path)
    folder = path.resolve().parent
    for tensor in external_tensors(model):
        found = ir.serde.deserialize_tensor(tensor, folder)
        files.check_regular(folder / next(each.value for each in tensor.external_data if each.key == "location"))
        tensor.raw_data = found.tobytes()
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return model


def follow_links(model: onnx.ModelProto, path: Path) -> None:
    """Name external files as they lie in the folder that a linked model lies in, as in Hugging Face's cache.

    There a model and its data are links with the names that the model knows, to files with others.
    """
    folder = path.resolve().parent
    if path.parent.resolve() == folder:
        return
    for tensor in external_tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and (path.parent / entry.value).resolve().parent == folder:
                entry.value = (path.parent / entry.value).resolve().name


def external_tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """The tensors of a message, wherever they are in it, whose data lie in external files."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in value if field.is_repeated else (value,):
                yield from external_tensors(each)
    if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL:
        yield message
