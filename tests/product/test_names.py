"""Names of layers in narrow columns: they fit, and what is different stays different."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.cli.names import shortened

RESNET = [f"/{block}/body/body.{index}/Conv" for block in range(4, 20) for index in (0, 3, 6)]
BERT = [f"/bert/encoder/layer.{layer}/attention/self/{part}/MatMul" for layer in range(12)
        for part in ("query", "key", "value")]


@pytest.mark.parametrize(("names", "room", "first"), [
    (RESNET, 40, "/4/body/body.0/Conv"),
    (RESNET, 14, "4/body.0/Conv"),
    (RESNET, 12, "4/body.0"),
    (BERT, 40, "layer.0/attention/self/query/MatMul"),
    (BERT, 30, "layer.0/attention/self/query"),
    (BERT, 20, "layer.0/at…elf/query"),
])
def test_what_tells_layers_apart_stays(names, room, first):
    short = shortened(names, room)
    assert short[0] == first
    assert len(set(short)) == len(names)


@given(st.lists(st.text("ab/.0", max_size=30)), st.integers(3, 20))
def test_names_fit_and_equal_ones_stay_equal(names, room):
    short = shortened(names, room)
    assert len(short) == len(names)
    assert all(len(name) <= room for name in short)
    assert len(set(short)) <= len(set(names))
