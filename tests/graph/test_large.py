"""Large models: weights are read one by one, whatever is done with them, and the result is that of small ones."""

import itertools
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.compiler import verification
from sparsec.errors import ModelError, ToolchainError
from sparsec.graph import large, reader, writer
from sparsec.graph.compare import run_onnxruntime
from sparsec.graph.references import BY_NODES
from sparsec.passes.strip import strip


def network(widths, dtype=np.float32, batch="batch", dead=0):
    """Linear layers with Relu between; half of the weights are zero, and of each hidden layer the first units."""
    rng = np.random.default_rng(0)
    nodes, tensors, x = [], [], "x"
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        weight = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < 0.5) / np.sqrt(rows)
        weight[:, :dead if columns != widths[-1] else 0] = 0
        tensors.append(numpy_helper.from_array(weight.astype(dtype), f"w{i}"))
        w = f"w{i}"
        if dtype != np.float32:
            nodes.append(helper.make_node("Cast", [w], [f"c{i}"], f"cast{i}", to=TensorProto.FLOAT))
            w = f"c{i}"
        nodes.append(helper.make_node("MatMul", [x, w], [f"h{i}"], f"layer{i}"))
        x = f"h{i}"
        if i + 2 < len(widths):
            nodes.append(helper.make_node("Relu", [x], [f"r{i}"], f"relu{i}"))
            x = f"r{i}"
    nodes.append(helper.make_node("Identity", [x], ["y"], "end"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size])
            for name, size in (("x", widths[0]), ("y", widths[-1]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def external(tmp_path, monkeypatch):
    """Writes a model with external data, all of which counts as large."""
    monkeypatch.setattr(large, "LARGE_BYTES", 0)
    monkeypatch.setattr(large, "SMALL_BYTES", 100)

    def write(proto, name="m.onnx", **options):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        onnx.save(copy, tmp_path / name, save_as_external_data=True, location=f"{name}.data", size_threshold=100,
                  **options)
        return tmp_path / name

    return write


@pytest.mark.parametrize(("dtype", "batch", "options"), [
    (np.float32, 2, {}), (np.float16, "batch", {"dims": {"batch": "1..4"}}),
    (np.float16, 1, {"precision": "int8", "inputs": {"x": np.ones((1, 64), np.float32)}}),
    (np.float32, 1, {"optimize": "size", "codec": "f16"})])
def test_a_large_model_compiles_to_the_same_artifact(external, dtype, batch, options):
    proto = network((64, 96, 80, 32), dtype, batch, dead=5)
    path = external(proto)
    assert large.streams(reader.load(path, symbolic=True).graph)
    ours, whole = (sparsec.compile(each, tune="off", verify=False, **options) for each in (path, proto))
    drop = {"verification": None}
    assert {**ours.report, **drop} == {**whole.report, **drop}
    for bucket, other in zip(ours.constants(), whole.constants(), strict=True):
        np.testing.assert_array_equal(bucket, other)


def test_outputs_are_compared_node_by_node_where_the_model_is_too_large(external, monkeypatch):
    monkeypatch.setattr(verification, "LARGEST_WHOLE", 0)
    artifact = sparsec.compile(external(network((64, 96, 32), np.float16)), tune="off", dims={"batch": "1..2"})
    assert artifact.report["verification"]["reference"] == BY_NODES
    assert artifact.report["verification"]["relative_error"]["y"] < 1e-5


def test_the_memory_of_compiling_is_that_of_a_few_weights(external, tmp_path):
    peaks = []
    for layers in (2, 12):
        path = external(network([1024] * layers + [1025], batch=1), f"{layers}.onnx")
        tracemalloc.start()
        sparsec.compile(path, tune="off", verify=False).save(tmp_path / "m.sparsec")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 8 << 20  # ten weights more take 40 MiB


@pytest.mark.parametrize("alignment", [None, 64])
def test_stripped_models_keep_external_data_and_do_not_grow(external, tmp_path, alignment):
    path = external(network((64, 96, 80, 32), batch=2, dead=9))
    if alignment is not None:
        realign(path, alignment)
    graph = reader.load(path, symbolic=True, as_is=True)
    assert strip(graph).counts["units removed"] == 18
    out = tmp_path / "out.onnx"
    writer.save(graph, out)
    stored = onnx.load(out, load_external_data=False)
    offsets = [int(entry.value) for tensor in stored.graph.initializer for entry in tensor.external_data
               if entry.key == "offset"]
    assert len(offsets) == 3
    assert all(offset % (alignment or 1) == 0 for offset in offsets)
    before, after = (sum(each.stat().st_size for each in (file, file.with_name(f"{file.name}.data")))
                     for file in (path, out))
    assert after <= before
    x = {"x": np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)}
    np.testing.assert_allclose(run_onnxruntime(out, x)[0], run_onnxruntime(path, x)[0], atol=1e-5)


def realign(path, alignment):
    """Write a model's external data anew, every tensor at a multiple."""
    proto = onnx.load(path)
    data = bytearray()
    for tensor in proto.graph.initializer:
        data += bytes(-len(data) % alignment)
        onnx.external_data_helper.set_external_data(tensor, f"{path.name}.data", len(data), len(tensor.raw_data))
        data += tensor.raw_data
        tensor.ClearField("raw_data")
    path.with_name(f"{path.name}.data").write_bytes(data)
    path.write_bytes(proto.SerializeToString())


def test_sparse_tensors_lie_in_external_data_where_weights_did(external, tmp_path):
    proto = network((64, 96, 32), batch=2)
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor) * (np.random.default_rng(2).random(tensor.dims) < 0.1)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    path, out = external(proto), tmp_path / "out.onnx"
    writer.save(reader.load(path), out, sparse=True)
    assert len(onnx.load(out, load_external_data=False).graph.sparse_initializer) == 2
    assert out.with_name("out.onnx.data").stat().st_size < path.with_name("m.onnx.data").stat().st_size / 2
    for old, new in zip(*(reader.load(each).graph.initializers.values() for each in (path, out)), strict=True):
        np.testing.assert_array_equal(old.const_value.numpy(), new.const_value.numpy())


def test_pruned_files_keep_external_data(external, tmp_path):
    path, out = external(network((64, 96, 32), batch=2)), tmp_path / "out.onnx"
    writer.save_proto(onnx.load(path), out, like=path)
    assert out.with_name("out.onnx.data").stat().st_size == path.with_name("m.onnx.data").stat().st_size
    assert all(each.external_data for each in onnx.load(out, load_external_data=False).graph.initializer)


def test_weights_in_several_files_at_any_offset_are_read(external):
    path = external(network((64, 96, 32), batch=2), all_tensors_to_one_file=False)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        entries = {each.key: each for each in tensor.external_data}
        file = path.with_name(entries["location"].value)
        file.write_bytes(b"odd" + file.read_bytes())
        for key, value in (("offset", "3"), ("length", str(file.stat().st_size - 3))):
            if key in entries:
                entries[key].value = value
            else:
                tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    for value, tensor in zip(reader.load(path).graph.initializers.values(), network((64, 96, 32)).graph.initializer,
                             strict=True):
        np.testing.assert_array_equal(value.const_value.numpy(), numpy_helper.to_array(tensor))


@pytest.mark.parametrize("location", ["../m.onnx.data", "/etc/hostname", "link", "nothing", "."])
def test_no_file_outside_of_the_models_folder_is_read(external, location):
    path = external(network((64, 96, 32), batch=2))
    (path.parent / "link").symlink_to("/etc/hostname")
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="external data must lie complete beside"):
        reader.load(path)


def test_a_file_shorter_than_declared_is_refused(external):
    path = external(network((64, 96, 32), batch=2))
    data = path.with_name("m.onnx.data")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ModelError, match="external data must lie complete beside"):
        reader.load(path)


def test_arrays_in_temporary_files_are_kept_once_and_say_where_there_is_no_room(monkeypatch):
    array = np.arange(100000, dtype=np.float32).reshape(1000, 100)
    first, again, other = (large.stored(each) for each in (array, array.copy(), array + 1))
    assert first is again
    np.testing.assert_array_equal(first, array)
    np.testing.assert_array_equal(other, array + 1)
    assert large.key_of(array) == first.key != other.key

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(large.os, "pwrite", full)
    with pytest.raises(ToolchainError, match="set TMPDIR"):
        large.stored(array + 2)
