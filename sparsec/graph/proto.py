"""A model file as a message of ONNX's, as it stands there, with the tensors of external files in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from sparsec import files


def read_proto(path: Path) -> onnx.ModelProto:
    """The model of a file that `reader.load` has checked; its external files may be links, as in Hugging Face's cache.

    Raises:
        OSError: an external file is missing.
        ValueError: it is shorter than its tensors.

    """
    model: onnx.ModelProto = onnx.ModelProto.FromString(files.read_regular(path))
    for tensor in external_tensors(model):
        told = {entry.key: entry.value for entry in tensor.external_data}
        with files.open_regular(path.parent / told["location"]) as file:
            file.seek(int(told.get("offset", 0)))
            length = int(told.get("length", -1))
            tensor.raw_data = file.read(length)
        if 0 <= length != len(tensor.raw_data):
            raise ValueError(f"external file '{told['location']}' ends before tensor '{tensor.name}' does")
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return model


def external_tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """The tensors of a message, wherever they are in it, whose data lie in external files."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in value if field.is_repeated else (value,):
                yield from external_tensors(each)
    if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL:
        yield message
