"""Writing a graph as an ONNX file: weights one by one, in external data where they came from there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import onnx_ir as ir

from sparsec import files
from sparsec.graph.large import EXTERNAL
from sparsec.graph.sparse import sparse_of, sparsify

INLINE_LIMIT = 1 << 30  # protobuf ends at 2 GiB, and a file this large is better mapped than parsed
SMALL_BYTES = 1 << 10  # of a tensor that stays in the file of a large model
LARGEST_ALIGNMENT = 1 << 12


def save(model: ir.Model, path: str | Path, *, sparse: bool = False,
         kept: Sequence[onnx.SparseTensorProto] = ()) -> None:
    """Writes the model to `path`.

    Weights that were read from external files go to `<path>.data` beside it, and so do those of more than 1 GiB in all;
    each is read and written before the next. With `sparse`, weights that take fewer bytes so are written as ONNX's
    sparse tensors, beside those that are `kept` as they are.

    Raises:
        OSError: a file cannot be written.

    """
    values = {str(value.name): value for value in model.graph.initializers.values() if value.const_value is not None}
    offsets = [offset for value in values.values() if (offset := EXTERNAL.get(value)) is not None]
    large = sum(value.const_value.nbytes for value in values.values() if value.const_value) > INLINE_LIMIT
    outside = {name: value for name, value in values.items() if EXTERNAL.get(value) is not None or (
        (large or offsets) and value.const_value is not None and value.const_value.nbytes > SMALL_BYTES)}
    if not outside:
        proto = ir.to_proto(model)
        if sparse:
            sparsify(proto)
        proto.graph.sparse_initializer.extend(kept)
        files.write(path, proto.SerializeToString(deterministic=True))
        return
    tensors = {name: value.const_value for name, value in outside.items() if value.const_value is not None}
    placed: dict[str, ir.ExternalTensor | onnx.SparseTensorProto] = {}
    data = Path(path).with_name(f"{Path(path).name}.data")
    files.write_by(data, lambda file: placed.update(_write(file, data.name, tensors, alignment_of(offsets), sparse)))
    proto = _without(model, outside, placed)
    proto.graph.sparse_initializer.extend(kept)
    files.write(path, proto.SerializeToString(deterministic=True))


def alignment_of(offsets: Iterable[int]) -> int:
    """What all these offsets are multiples of, a power of two: tensors aligned so take no more room than there."""
    common = math.gcd(*offsets)
    return min(LARGEST_ALIGNMENT, common & -common) if common else 1


def _write(file: IO[bytes], location: str, tensors: Mapping[str, ir.TensorProtocol], alignment: int,
           sparse: bool) -> dict[str, ir.ExternalTensor | onnx.SparseTensorProto]:  # noqa: FBT001 - given by name by its caller
    """Write tensors one behind the other; what stands for each in the model's file."""
    def append(array: np.ndarray) -> tuple[int, int]:
        file.write(bytes(-file.tell() % alignment))
        start = file.tell()
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return start, array.nbytes

    placed: dict[str, ir.ExternalTensor | onnx.SparseTensorProto] = {}
    for name, tensor in tensors.items():
        found = sparse_of(name, tensor.numpy(), location, append) if sparse else None
        if found is not None:
            placed[name] = found
            continue
        start, nbytes = append(np.frombuffer(tensor.tobytes(), np.uint8))
        placed[name] = ir.ExternalTensor(location, start, nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()),
                                         name=name)
    return placed


def _without(model: ir.Model, outside: Mapping[str, ir.Value],
             placed: Mapping[str, ir.ExternalTensor | onnx.SparseTensorProto]) -> onnx.ModelProto:
    """The model's file where these tensors lie elsewhere."""
    before = {name: value.const_value for name, value in outside.items()}
    try:
        for name, value in outside.items():
            found = placed[name]
            value.const_value = found if isinstance(found, ir.ExternalTensor) else ir.tensor(np.zeros(0), name=name)
        proto: onnx.ModelProto = ir.to_proto(model)
    finally:
        for name, value in outside.items():
            value.const_value = before[name]
    sparse = [each for each in placed.values() if isinstance(each, onnx.SparseTensorProto)]
    names = {each.values.name for each in sparse}
    dense = [tensor for tensor in proto.graph.initializer if tensor.name not in names]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(dense)
    proto.graph.sparse_initializer.extend(sparse)
    return proto


def save_proto(proto: onnx.ModelProto, path: str | Path, *, like: str | Path | None = None,
               sparse: bool = False) -> None:
    """Writes a model that is held as it stands in its file; large ones, and with `sparse`, as `save` does.

    Tensors that lie in external data in the file `like` go there, too.

    Raises:
        OSError: the file cannot be written.

    """
    offsets = {} if like is None else _external_offsets(like)
    if not (offsets or sparse or proto.ByteSize() > INLINE_LIMIT):
        files.write(path, proto.SerializeToString(deterministic=True))
        return
    rest = onnx.ModelProto()
    rest.CopyFrom(proto)
    rest.graph.ClearField("sparse_initializer")
    model = ir.from_proto(rest)
    for name, offset in offsets.items():
        if name in model.graph.initializers:
            EXTERNAL.set(model.graph.initializers[name], offset)
    save(model, path, sparse=sparse, kept=list(proto.graph.sparse_initializer))


def drop_shapes(path: str | Path) -> None:
    """Takes the shapes of what standard operators produce out of a file: all readers infer them.

    Raises:
        OSError: the file cannot be written.

    """
    proto = onnx.ModelProto.FromString(files.read_regular(path))
    custom = {name for node in proto.graph.node if node.domain not in ("", "ai.onnx") for name in node.output}
    kept = [value for value in proto.graph.value_info if value.name in custom]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    files.write(path, proto.SerializeToString(deterministic=True))


def _external_offsets(path: str | Path) -> dict[str, int]:
    """By name, where the tensors of a file that lie in external data do so."""
    proto = onnx.ModelProto.FromString(files.read_regular(path))
    found = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {each.key: each.value for each in tensor.external_data}
            found[tensor.name] = int(entries.get("offset", 0))
    return found
