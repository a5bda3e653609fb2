"""Weights in external files: read as they stand, also by links as in Hugging Face's cache, and not from elsewhere."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sparsec.errors import SparsecError
from sparsec.graph.proto import read_proto
from sparsec.graph.reader import load
from sparsec.oneshot import file
from tests.support.texts import model

READERS = {"to compile": load, "to prune": file.read, "as it stands": read_proto}
LINEAR = "g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { y = MatMul(x, w) }"


def saved(folder, location="weights.bin"):
    """A model with external data; returns it as it was."""
    proto = model(LINEAR)
    moved = onnx.ModelProto.FromString(proto.SerializeToString())
    onnx.save(moved, folder / "m.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return proto


def test_external_data_are_put_into_the_message(tmp_path):
    proto = saved(tmp_path)
    assert read_proto(tmp_path / "m.onnx") == proto


@pytest.mark.parametrize("names", [("m.onnx", "weights.bin"), ("4f1c", "9a2e")])
@pytest.mark.parametrize("reader", READERS)
def test_links_are_followed_whatever_the_files_are_called(tmp_path, reader, names):
    snapshot, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    proto = saved(blobs)
    for name, own in zip(("m.onnx", "weights.bin"), names, strict=True):
        (blobs / name).rename(blobs / own)
        (snapshot / name).symlink_to(f"../../blobs/{own}")
    assert READERS[reader](snapshot / "m.onnx")
    assert read_proto(snapshot / "m.onnx") == proto


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("place", ["initializer", "attribute"])
@pytest.mark.parametrize("way", ["../secret", "link"])
def test_files_outside_the_folder_are_not_read(tmp_path, reader, place, way):
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(bytes(128))
    (folder / "link").symlink_to(secret)
    proto, weight = model(LINEAR), numpy_helper.from_array(np.zeros((8, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, way)
    weight.ClearField("raw_data")
    del proto.graph.initializer[:]
    if place == "initializer":
        proto.graph.initializer.append(weight)
    else:
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises((SparsecError, ValueError), match=r"outside|traversal"):
        READERS[reader](folder / "m.onnx")
