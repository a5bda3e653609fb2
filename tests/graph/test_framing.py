"""A file is told to be no ONNX model by its outermost fields alone, as protobuf's own reader tells it."""

import io
from contextlib import nullcontext

import onnx
import pytest
from google.protobuf.message import DecodeError

from sparsec.errors import ModelError
from sparsec.graph.framing import check_framing
from tests.support.texts import model

DATA = model("g (float[1,4] x) => (float[1,2] y) <float[4,2] w> { y = MatMul(x, w) }").SerializeToString()


def checked(data):
    check_framing("m.onnx", io.BytesIO(data), len(data))


def test_beginnings_of_a_model_are_taken_as_by_protobuf():
    for length in range(len(DATA) + 1):
        try:
            proto = onnx.ModelProto.FromString(DATA[:length])
            taken = bool(proto.ir_version and proto.HasField("graph"))
        except DecodeError:
            taken = False
        with nullcontext() if taken else pytest.raises(ModelError, match=r"truncated or damaged|not an ONNX model"):
            checked(DATA[:length])
    assert taken


@pytest.mark.parametrize("data", [b"", b"hello", b"<html></html>", bytes(64), b"\xff" * 64])
def test_nothing_else_is_taken(data):
    with pytest.raises(ModelError, match="not an ONNX model"):
        checked(data)
