"""Codebooks, entries and the Deep Compression file: golden examples, exact round trips, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsec.errors import FormatError
from sparsec.formats import codebook, deep_compression, eie
from sparsec.models.squeezenet_onnx import convolutions
from tests.support.eie import FC8, code_matrices, needs_fc8, random_codes
from tests.support.pictures import SQUEEZENET, needs_squeezenet


def test_golden_column_with_padding():
    stored = eie.encode(np.array([0, 0, 1, 2, *[0] * 18, 3], np.uint8)[:, None])
    assert stored.codes.tolist() == [1, 2, 0, 3]
    assert stored.runs.tolist() == [2, 0, 15, 2]


def test_golden_processing_element_of_the_papers_figure_3():
    codes = np.zeros((16, 8), np.uint8)
    for column, rows in enumerate([[0, 8, 12], [4], [0, 12], [], [0, 4], [0, 12], [0], [8, 12]]):
        codes[rows, column] = 1
    stored = eie.encode(codes, pes=4)
    assert stored.runs.tolist() == [0, 1, 0, 1, 0, 2, 0, 0, 0, 2, 0, 2, 0]
    assert stored.pointers[0].tolist() == [0, 3, 4, 6, 6, 8, 10, 11, 13]


def test_ese_packs_a_12_bit_value_and_a_4_bit_run():
    stored = eie.encode(np.array([0, 0, 1, *[0] * 16, 3, 0, 0, 2], np.uint16)[:, None])
    words = eie.pack(stored, 12)
    assert words.dtype == np.uint16
    assert [(word & 15, word >> 4) for word in words.tolist()] == [(2, 1), (15, 0), (0, 3), (2, 2)]


@given(code_matrices(), st.integers(1, 17), st.integers(1, 8))
def test_entries_are_exact(codes, pes, index_bits):
    stored = eie.encode(codes, pes, index_bits)
    assert np.array_equal(eie.decode(stored), codes)
    assert len(stored.codes) == stored.counts.sum() == np.count_nonzero(codes) + stored.padding.sum()
    assert (stored.runs[stored.padding] == 2**index_bits - 1).all()


def test_padding_of_a_random_mask_is_as_expected():
    density, bits = 0.04, 4
    stored = eie.encode(random_codes(np.random.default_rng(0), 200_000, 1, density), index_bits=bits)
    q = (1 - density) ** 2**bits
    assert stored.padding.sum() / (~stored.padding).sum() == pytest.approx(q / (1 - q), rel=0.03)


@needs_fc8
def test_alexnet_fc8_has_its_published_entries():
    stored = eie.encode(np.load(FC8)["codes"], pes=64)
    assert len(stored.codes) == 1_051_991
    assert not stored.padding.any()


def test_damaged_entries_and_impossible_parameters_are_refused():
    stored = eie.encode(np.ones((3, 2), np.uint8))
    stored.runs[0] = 9
    with pytest.raises(FormatError, match="damaged"):
        eie.decode(stored)
    with pytest.raises(FormatError, match="1 to 8 bits"):
        eie.encode(np.ones((3, 2), np.uint8), index_bits=9)
    with pytest.raises(FormatError, match="does not fit 4 bits"):
        eie.pack(eie.encode(np.full((1, 1), 16, np.uint8)), 4)


@needs_squeezenet
def test_squeezenet_file_decodes_and_encodes_byte_for_byte():
    data = SQUEEZENET.read_bytes()
    layers = deep_compression.decode(data, [layer.shape for layer in convolutions()])
    stored = [eie.encode(layer.codes.reshape(-1, 1)) for layer in layers]
    assert sum(len(each.codes) for each in stored) == 422_083
    assert sum(each.padding.sum() for each in stored) == 6_162
    assert deep_compression.encode(layers) == data


@needs_squeezenet
@pytest.mark.parametrize("damage", [lambda b: b[:50], lambda b: b[:-1], lambda b: b"\xff" + b[1:]])
def test_damaged_files_are_refused(damage):
    with pytest.raises(FormatError, match="deep compression"):
        deep_compression.decode(damage(SQUEEZENET.read_bytes()), [layer.shape for layer in convolutions()])


weights = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-8, 8, width=16))


@given(weights, st.sampled_from([2, 3, 16, 256]))
def test_only_zeros_share_the_value_zero_and_others_the_nearest(values, size):
    book = codebook.cluster(values, size)
    codes = codebook.assign(values, book)
    assert len(book) == size
    assert np.array_equal(codes == 0, values == 0)
    nearest = np.abs(values[values != 0, None] - book[1:]).min(axis=1)
    assert np.allclose(np.abs(values - book[codes])[values != 0], nearest, atol=1e-6)


@given(weights)
def test_few_distinct_values_are_kept_exactly(values):
    size = 1 + len(np.unique(values[values != 0]))
    for choose in (codebook.cluster, codebook.keep):
        book = choose(values, max(2, size))
        assert np.array_equal(book[codebook.assign(values, book)], values)
    if size > 2:
        with pytest.raises(FormatError, match="distinct"):
            codebook.keep(values, size - 1)


def test_clusters_are_means_and_better_than_equal_steps():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    book = codebook.cluster(values, 16)
    codes = codebook.assign(values, book)
    means = [values[codes == code].mean() for code in range(1, 16)]
    assert np.allclose(book[1:], means, atol=1e-4)
    steps = np.concatenate(([0], np.linspace(values.min(), values.max(), 15))).astype(np.float32)
    assert ((values - book[codes]) ** 2).mean() < 0.7 * ((values - steps[codebook.assign(values, steps)]) ** 2).mean()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_without_a_mean_are_refused(value):
    with pytest.raises(FormatError, match="NaN"):
        codebook.cluster(np.array([1, value], np.float32), 16)
