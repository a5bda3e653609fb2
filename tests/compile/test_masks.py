"""Verification says something of models with masks, whether True keeps an element or hides it."""

import numpy as np
import pytest

import sparsec
from sparsec.graph.compare import random_feeds
from sparsec.graph.reader import load
from tests.support.texts import model

KEEPS, HIDES = "Where(mask, s, low)", "Where(mask, low, s)"


def attention(where, low=-np.inf):
    """Attention that a mask takes part in, which is NaN where it hides everything."""
    return model(f"g (float[1,4,8] x, bool[1,1,4] key_mask) => (float[1,4,8] y) <float[8,8] w, float low> {{ "
                 "q = MatMul(x, w) k = Transpose<perm=[0,2,1]>(x) s = MatMul(q, k) "
                 f"{where.replace('Where', 'm = Where').replace('mask', 'key_mask')} p = Softmax<axis=-1>(m) "
                 "y = MatMul(p, x) }", low=np.float32(low))


@pytest.mark.parametrize("where", [KEEPS, HIDES])
def test_random_masks_hide_some_and_keep_some(where, recwarn):
    mask = random_feeds(load(attention(where)))["key_mask"]
    assert mask.any(axis=-1).all()
    assert not mask.all(axis=-1).any()
    artifact = sparsec.compile(attention(where), tune="off")
    assert artifact.report["verification"]["relative_error"]["y"] < 1e-4
    assert not [each for each in recwarn if "proves little" in str(each.message)]


def test_outputs_that_are_nan_throughout_are_said_to_prove_little():
    proto = model("g (float[2,4] x) => (float[2,3] y) <float[4,3] w, float[3] b> { h = MatMul(x, w) y = Add(h, b) }",
                  b=np.full(3, np.nan))
    with pytest.warns(UserWarning, match="proves little"):
        sparsec.compile(proto, tune="off")
