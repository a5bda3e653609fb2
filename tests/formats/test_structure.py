"""What structure is found in a weight, and which storage is the smallest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.analysis import structure
from sparsec.formats import CODECS, FORMATS
from sparsec.formats.smallest import likely_smallest, smallest
from sparsec.formats.storage import as_matrix
from tests.support.weights import weights

RNG = np.random.default_rng(0)


def blocks(rows, columns, density=0.1):
    """A 64 x 96 weight of whole blocks."""
    mask = RNG.random((64 // rows, 96 // columns)) < density
    return (np.kron(mask, np.ones((rows, columns))) * RNG.standard_normal((64, 96))).astype(np.float32)


@pytest.mark.parametrize("size", [(4, 1), (1, 4), (2, 2), (16, 1), (8, 8)])
def test_blocks_are_found(size):
    assert structure.find(blocks(*size)).block == size


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 8), (2, 16)])
def test_groups_are_found(n, m):
    weight = np.argsort(RNG.random((64, 96 // m, m)), axis=2).reshape(64, 96) < n
    assert structure.find(weight.astype(np.float32)).nm == (n, m)


def test_random_places_are_no_structure():
    found = structure.find(blocks(1, 1))
    assert str(found) == "unstructured"
    assert found.sparsity == pytest.approx(0.9, abs=0.02)


def test_empty_rows_columns_and_channels_are_counted():
    weight = np.ones((4, 3, 2, 2), np.float32)
    weight[1], weight[:, 2], weight[:, 0, 1, 1] = 0, 0, 0
    found = structure.find(weight)
    assert (found.empty_rows, found.empty_columns, found.empty_channels) == (1, 5, 1)


@pytest.mark.parametrize(("weight", "name"), [
    (np.ones((64, 64)), "dense"), (blocks(1, 1, 0.5), "bitmap"), (blocks(4, 1), "bcsr 4x1"), (blocks(4, 4), "bcsr 4x4"),
    (np.tile([0.0, 0, 0, 1], (64, 16)), "strided")])
def test_the_smallest_storage(weight, name):
    assert smallest(weight).format.name == name


@settings(max_examples=40, deadline=None)
@given(weights(special=False), st.sampled_from(["f32", "codebook4"]))
def test_nothing_is_smaller_than_the_smallest(weight, codec):
    if CODECS[codec].reject(as_matrix(weight)) is None:
        sizes = [form.encode(weight, CODECS[codec]).nbytes for form in FORMATS.values()
                 if form.reject(as_matrix(weight)) is None]
        assert smallest(weight, CODECS[codec]).nbytes <= 1.01 * min(sizes) + 8


@pytest.mark.parametrize("weight", [np.ones((64, 96)), blocks(1, 1, 0.5), blocks(4, 1), blocks(1, 1, 0.1)])
def test_some_rows_tell_the_smallest_storage(weight):
    assert likely_smallest(weight, large=2048).format == smallest(weight).format


def test_rows_unlike_the_sampled_ones_are_not_forgotten():
    weight = np.zeros((64, 96), np.float32)
    weight[:, ::4] = 1
    weight[16:32] = blocks(1, 1, 0.5)[:16]  # the second group of rows, which a sample of every second leaves out
    found = likely_smallest(weight, large=2048)
    np.testing.assert_array_equal(found.format.decode(found), weight)


@settings(max_examples=40, deadline=None)
@given(weights())
def test_every_weight_has_a_structure(weight):
    found = structure.find(weight)
    assert 0 <= found.sparsity <= 1
    assert found.empty_rows <= as_matrix(weight).shape[0]
