"""ONNX's sparse tensors (COO) made dense at load: `sparse_initializer` and Constant's `sparse_value`.

The storage format of the compiled model is the plan's choice, so the graph holds dense weights; that a weight came in
sparse is remembered as the metadata `sparsec.sparse_initializer` of its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from sparsec import files
from sparsec.errors import ModelError
from sparsec.graph import large

INDEX_BYTES = 8
SPARSE_KEY = "sparsec.sparse_initializer"


def to_dense(sparse: onnx.SparseTensorProto, base_dir: Path | None,
             most: int = files.FREE_BYTES) -> tuple[np.ndarray, str]:
    """The dense array of a sparse tensor and a note on how it was stored, such as `nnz=3,form=linear`.

    The indices are either linear, of shape (nnz,), or one coordinate per dimension, of shape (nnz, rank).

    Raises:
        ModelError: the indices have another shape or lie outside the tensor, or it takes over `most` bytes; names the
            tensor.

    """
    name, shape = sparse.values.name, tuple(sparse.dims)
    values, indices = (_array(each, base_dir) for each in (sparse.values, sparse.indices))
    if indices.shape == (values.size,):
        form, bounds = "linear", (math.prod(shape),)
        coordinates: tuple[np.ndarray, ...] = (indices,)
    elif indices.shape == (values.size, len(shape)):
        form, bounds = "coordinates", shape
        coordinates = tuple(indices.T)
    else:
        raise ModelError(f"sparse tensor '{name}': indices of shape {indices.shape} fit neither form of ONNX, "
                         f"({values.size},) or ({values.size}, {len(shape)}); export the model again")
    if any(((c < 0) | (c >= bound)).any() for c, bound in zip(coordinates, bounds, strict=True)):
        raise ModelError(f"sparse tensor '{name}': an index lies outside shape {shape}; export the model again")
    if math.prod(shape) * values.itemsize > most:
        raise _too_large(name, shape)
    dense = np.zeros(bounds, values.dtype)
    dense[coordinates] = values
    return dense.reshape(shape), f"nnz={values.size},form={form}"


def _array(tensor: onnx.TensorProto, base_dir: Path | None) -> np.ndarray:
    """A part of a sparse tensor; raises OSError or ValueError where it lies in a file that is not there."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        location = next((each.value for each in tensor.external_data if each.key == "location"), "")
        if base_dir is None:
            raise ValueError(f"'{tensor.name}' lies in external file '{location}'")
        files.check_regular(base_dir / location)  # a pipe would be waited for
    return numpy_helper.to_array(tensor, base_dir=str(base_dir or ""))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph nested in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for nested in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(nested)


def has_sparse(model: onnx.ModelProto) -> bool:
    """Whether the model holds sparse tensors."""
    return any(graph.sparse_initializer or any(a.HasField("sparse_tensor") for n in graph.node for a in n.attribute)
               for graph in _graphs(model.graph))


def take_large(model: onnx.ModelProto, base_dir: Path | None) -> dict[str, ir.LazyTensor]:
    """Takes the sparse tensors of large models, whose parts lie in external data, out of the main graph, in place.

    Dense tensors without contents stand in their place. Each is made dense when it is read.

    Returns:
        By name, the tensors that belong there; none where there is little external data.

    Raises:
        ModelError: a tensor takes over `files.budget` of the bytes that are stored of it.
        OSError: an external file is missing.

    """
    external = _external_bytes(model, base_dir)
    if base_dir is None or external <= large.LARGE_BYTES:
        return {}
    kept, taken = [], dict[str, ir.LazyTensor]()
    for sparse in model.graph.sparse_initializer:
        if sparse.values.data_location != onnx.TensorProto.EXTERNAL:
            kept.append(sparse)
            continue
        name, shape, kind = sparse.values.name, tuple(sparse.dims), ir.DataType(sparse.values.data_type)
        stored = sum(int(entry.value) for part in (sparse.values, sparse.indices) for entry in part.external_data
                     if entry.key == "length")
        if math.prod(shape) * kind.itemsize > files.budget(min(stored, external)):
            raise _too_large(name, shape)
        taken[name] = large.computed(partial(_read, sparse, base_dir), kind, shape, name)
        model.graph.initializer.append(onnx.TensorProto(name=name, data_type=kind, dims=shape, raw_data=b""))
    model.graph.ClearField("sparse_initializer")
    model.graph.sparse_initializer.extend(kept)
    return taken


def notes_of(model: onnx.ModelProto) -> dict[str, str]:
    """By name, how the sparse initializers of the main graph are stored, as `to_dense` tells it."""
    return {each.values.name: f"nnz={math.prod(each.values.dims)},form="
            f"{'linear' if len(each.indices.dims) == 1 else 'coordinates'}" for each in model.graph.sparse_initializer}


def _read(sparse: onnx.SparseTensorProto, base_dir: Path) -> np.ndarray:
    return to_dense(sparse, base_dir, math.prod(sparse.dims) * ir.DataType(sparse.values.data_type).itemsize)[0]


def _too_large(name: str, shape: tuple[int, ...]) -> ModelError:
    return ModelError(f"sparse tensor '{name}': shape {shape} with the sparse tensors before it takes over the "
                      f"{files.FREE_BYTES >> 20} MiB and {files.LARGEST_RATIO} times the size of what is stored that "
                      "reading may take; export it as a dense tensor if that is meant")


def densify(model: onnx.ModelProto, base_dir: Path | None) -> dict[str, str]:
    """Replaces every sparse tensor of the model, in place, by a dense one; returns the note of each by value name.

    Raises:
        ModelError: one is none, or all together take more memory than reading a file may; names it.
        OSError, ValueError: one lies in an external file that is missing, or there is no folder to look for it.

    """
    notes: dict[str, str] = {}
    left = files.budget(model.ByteSize() + _external_bytes(model, base_dir))
    for graph in _graphs(model.graph):
        for sparse in graph.sparse_initializer:
            dense, notes[sparse.values.name] = to_dense(sparse, base_dir, left)
            left -= dense.nbytes
            graph.initializer.append(numpy_helper.from_array(dense, sparse.values.name))
        graph.ClearField("sparse_initializer")
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor"):
                    dense, notes[node.output[0]] = to_dense(attribute.sparse_tensor, base_dir, left)
                    left -= dense.nbytes
                    attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(dense)))
    return notes


def _external_bytes(model: onnx.ModelProto, base_dir: Path | None) -> int:
    """The bytes of the files that parts of the model's sparse tensors lie in."""
    parts = (part for graph in _graphs(model.graph) for each in graph.sparse_initializer
             for part in (each.values, each.indices))
    locations = {entry.value for part in parts for entry in part.external_data if entry.key == "location"}
    return sum(files.check_regular(base_dir / location).st_size for location in locations) if base_dir else 0


def sparse_of(name: str, array: np.ndarray, location: str,
              append: Callable[[np.ndarray], tuple[int, int]]) -> onnx.SparseTensorProto | None:
    """A tensor of linear indices whose parts `append` writes to a file; None where that takes no fewer bytes.

    Args:
        name: the tensor's.
        array: what it holds.
        location: of the file.
        append: writes an array; answers with its offset and bytes.

    """
    indices = _indices(array)
    if indices is None:
        return None
    parts = []
    for label, part in ((name, array.reshape(-1)[indices]), (f"{name}.indices", indices)):
        tensor = onnx.TensorProto(name=label, data_type=onnx.helper.np_dtype_to_tensor_dtype(part.dtype),
                                  dims=part.shape, data_location=onnx.TensorProto.EXTERNAL)
        start, length = append(part)
        for key, value in {"location": location, "offset": str(start), "length": str(length)}.items():
            tensor.external_data.add(key=key, value=value)
        parts.append(tensor)
    values, places = parts
    return onnx.helper.make_sparse_tensor(values, places, list(array.shape))


def _indices(array: np.ndarray) -> np.ndarray | None:
    """Where an array is not zero, if it takes fewer bytes as a sparse tensor."""
    if array.dtype.kind != "f" or np.count_nonzero(array) * (array.itemsize + INDEX_BYTES) >= array.nbytes:
        return None
    return np.flatnonzero(array).astype(np.int64)


def sparsify(model: onnx.ModelProto) -> None:
    """Replaces every initializer that takes fewer bytes as a sparse tensor by one, of linear indices, in place."""
    dense = list(model.graph.initializer)
    model.graph.ClearField("initializer")
    for tensor in dense:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        array = np.zeros(0) if external else numpy_helper.to_array(tensor)
        indices = _indices(array)
        if indices is None:
            model.graph.initializer.append(tensor)
            continue
        values = numpy_helper.from_array(array.reshape(-1)[indices], tensor.name)
        places = numpy_helper.from_array(indices, f"{tensor.name}.indices")
        model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, list(array.shape)))
