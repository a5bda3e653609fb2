"""Storage formats: exact round trips, exact sizes, the survey's figures, refusals."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings

from sparsec.errors import FormatError
from sparsec.formats import CODECS, FORMATS, NM, Bcsr, BlockBalanced, Delta, DeltaPadded, Dense, Strided, huffman
from sparsec.formats.bits import unpack
from sparsec.formats.draws import signs
from sparsec.formats.smallest import smallest
from sparsec.formats.storage import as_matrix, matrix_shape
from tests.support.weights import weights

EVERY_FORMAT = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
EVERY_CODEC = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
LARGEST_ERROR = {"f16": 2**-11, "bf16": 2**-8}  # relative to the value


def encode(form, weight, codec=CODECS["f32"]):
    """The stored weight; None where the format or the codec rejects it, which encoding then refuses."""
    if form.reject(as_matrix(weight)) is None and codec.reject(as_matrix(weight)) is None:
        return form.encode(weight, codec)
    with pytest.raises(FormatError):
        form.encode(weight, codec)
    return None


def normal(weight):
    """As float32 bits, -0.0 being zero."""
    single = weight.astype(np.float32)
    return np.where(single == 0, np.float32(0), single).view(np.uint32)


@EVERY_FORMAT
@settings(max_examples=60, deadline=None)
@given(weight=weights())
def test_round_trips_are_bit_exact(form, weight):
    if (encoded := encode(form, weight)) is None:
        return
    decoded = form.decode(encoded)
    assert decoded.dtype == np.float32
    assert decoded.shape == weight.shape
    assert np.array_equal(decoded.view(np.uint32), normal(weight))


@EVERY_FORMAT
@settings(max_examples=30, deadline=None)
@given(weight=weights())
def test_bytes_are_the_papers_bits_padded_to_bytes(form, weight):
    if (encoded := encode(form, weight)) is None:
        return
    bits = form.analytic_bits(encoded.streams["values"].count, matrix_shape(weight.shape), 32)
    if isinstance(form, Delta):
        bits = encoded.streams["values"].count * (32 + encoded.streams["distances"].bits)
    assert bits / 8 <= form.nbytes(encoded) < bits / 8 + len(encoded.streams)


@EVERY_CODEC
@EVERY_FORMAT
@settings(max_examples=5, deadline=None)
@given(weight=weights(special=False))
def test_lossy_codecs_keep_zeros_and_bound_the_error(form, codec, weight):
    if (encoded := encode(form, weight, codec)) is None:
        return
    matrix, decoded = as_matrix(weight).astype(np.float32), as_matrix(form.decode(encoded))
    assert not decoded[matrix == 0].any()
    error, largest = abs(decoded - matrix), abs(matrix).max(axis=1, initial=0)
    if codec.name.startswith("codebook"):
        spread = np.ptp(matrix[matrix != 0]) if matrix.any() else 0
        assert error.max(initial=0) <= spread + 1e-6
    elif codec.name == "int8":
        assert (error <= largest[:, None] / 127 * 0.5001).all()
    elif codec.name == "int4":
        assert (error <= largest[:, None] / 4 + 1e-6).all()
    else:
        assert (error <= LARGEST_ERROR.get(codec.name, 0) * abs(matrix) + (codec.name == "f16") * 2**-25).all()


@EVERY_CODEC
def test_values_that_a_codec_cannot_hold_are_refused_or_kept(codec):
    for value in (np.nan, np.inf, -np.inf):
        weight = np.array([[value, 0, 1]], np.float32)
        if codec.reject(weight) is None:
            assert np.array_equal(Dense().decode(Dense().encode(weight, codec)), weight, equal_nan=True)
        else:
            with pytest.raises(FormatError, match=codec.name):
                Dense().encode(weight, codec)


def test_finite_values_beyond_a_type_are_refused():
    assert "70000" in CODECS["f16"].reject(np.array([[7e4]]))
    assert CODECS["bf16"].reject(np.array([[7e4]])) is None
    assert "beyond" in CODECS["f32"].reject(np.array([[1e300]]))


@settings(max_examples=60, deadline=None)
@given(weight=weights(special=False))
def test_huffman_is_exact_and_never_larger(weight):
    for stream in DeltaPadded().encode(weight, CODECS["codebook4"]).streams.values():
        coded = huffman.shrink(stream)
        assert coded.nbytes <= stream.nbytes
        assert np.array_equal(huffman.read(coded), huffman.read(stream))


def test_huffman_code_is_optimal_where_counts_are_powers_of_two_and_short_where_they_are_extreme():
    assert huffman.code_lengths(np.array([8, 4, 2, 1, 1])).tolist() == [1, 2, 3, 4, 4]
    fibonacci = np.round(1.618034 ** np.arange(60)).astype(np.int64)
    assert huffman.code_lengths(fibonacci).max() <= huffman.LONGEST


def test_huffman_reaches_the_entropy():
    rng = np.random.default_rng(0)
    weight = rng.laplace(size=(1000, 1000)).astype(np.float32)
    stream = Dense().encode(weight, CODECS["codebook6"]).streams["values"]
    shares = np.bincount(huffman.read(stream)) / stream.count
    entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum() / 8 * stream.count
    assert entropy < huffman.shrink(stream).nbytes < 1.03 * entropy


# Hoefler et al. 2021, 2.2: n_c = n_r = 10^4, k = 8.
SURVEY = (10**4, 10**4)


def survey_bits(name, sparsity):
    m = round((1 - sparsity) * math.prod(SURVEY))
    form = Delta(1000) if name == "delta" else FORMATS[name]
    return form.analytic_bits(form.entries(m, SURVEY), SURVEY, 8)


@pytest.mark.parametrize(("sparsity", "best"), [
    (0.0, "dense"), (0.05, "dense"), (0.1, "dense"), (0.13, "bitmap"), (0.4, "bitmap"), (0.7, "bitmap"),
    (0.81, "delta-padded 4"), (0.9, "delta-padded 5"), (0.99, "delta"), (0.995, "delta")])
def test_the_surveys_best_scheme(sparsity, best):
    schemes = ("dense", "bitmap", "coo", "delta", "delta-padded 4", "delta-padded 5", "csr", "csc")
    assert min(schemes, key=lambda name: survey_bits(name, sparsity)) == best


def test_the_surveys_dimension_aware_schemes_pay_where_gaps_are_huge():
    shape, m = (10**4, 10**4), 10**5
    assert FORMATS["csr"].analytic_bits(m, shape, 8) < Delta(10**8 // 2).analytic_bits(m, shape, 8)
    assert FORMATS["coo"].analytic_bits(10**3, shape, 8) < FORMATS["csr"].analytic_bits(10**3, shape, 8)


def test_two_in_four_costs_four_bits_a_group():
    assert NM(2, 4).analytic_bits(2, (1, 4), 16) == 2 * 16 + 4


def test_ese_packs_a_12_bit_value_and_a_4_bit_run_in_16_bits():
    assert DeltaPadded(4).analytic_bits(1000, SURVEY, 12) == 16_000


def test_the_surveys_strided_example():
    weight = np.array([0.2, 1.9, 0, 1.3, 0, 0.3, 0, 1.2, 0, 0.4], np.float32)
    streams = Strided().encode(weight).streams
    assert huffman.read(streams["header"]).tolist() == [1, 2]
    values = huffman.read(streams["values"]).view(np.float32)
    assert np.array_equal(values, np.array([0.2, 1.9, 1.3, 0.3, 1.2, 0.4], np.float32))


@pytest.mark.parametrize("make", [lambda: NM(5, 4), lambda: NM(0, 4), lambda: Bcsr(0, 1), lambda: BlockBalanced(0),
                                  lambda: DeltaPadded(9)])
def test_impossible_parameters_are_refused(make):
    with pytest.raises(FormatError):
        make()


@pytest.mark.parametrize(("name", "reason"), [
    ("bcsr 4x1", "do not divide 6x6"), ("nm 2:4", "do not divide 6"), ("block-balanced 32", "do not divide 6"),
    ("strided", "no stride")])
def test_formats_say_why_they_reject(name, reason):
    with pytest.raises(FormatError, match=reason):
        FORMATS[name].encode(np.ones((6, 6)))


def test_a_full_group_is_no_2_in_4():
    assert NM(2, 4).reject(np.array([[1, 0, 1, 0, 1, 1, 1, 0]])) == "a group has 3 non-zeros, more than 2"


def interpreted_steps(form, shape):
    """Lines of Python that a round trip of a weight takes."""
    weight, steps = np.zeros(shape, np.float32), 0
    weight[:, ::10] = 1

    def count(*_):
        nonlocal steps
        steps += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        form.decode(form.encode(weight))
    finally:
        sys.settrace(before)
    return steps


@EVERY_FORMAT
def test_python_goes_through_no_weight_by_itself(form):
    assert interpreted_steps(form, (1024, 1280)) < 5 * interpreted_steps(form, (64, 64))  # 320 times the weights


@settings(max_examples=60, deadline=None)
@given(weight=weights(special=False))
def test_gaps_are_counted_without_storing_them(weight):
    matrix = as_matrix(weight)
    stored = FORMATS["gaps 8"].encode(matrix).streams["values"].count
    assert FORMATS["gaps 8"].count(np.ascontiguousarray(matrix.astype(np.float32) != 0)) * 8 == stored


def frozen(seed, shape=(40, 96), trained=0.05):
    """Signs of a seed with magnitudes of rows, some of them trained: the weight, and the trained alone."""
    rng = np.random.default_rng(seed)
    drawn = signs(seed, shape) * rng.uniform(0.5, 2, (shape[0], 1)).astype(np.float32)
    learnt = np.where(rng.random(shape) < trained, rng.standard_normal(shape, np.float32), np.float32(0))
    return np.where(learnt != 0, learnt, drawn), learnt


@pytest.mark.parametrize("seed", [0, 7, 2**20 - 1])
def test_frozen_weights_take_a_seed_more_than_pruned_ones(seed):
    weight, learnt = frozen(seed)
    stored, pruned = smallest(weight, CODECS["seed"]), smallest(learnt)
    assert np.array_equal(stored.format.decode(stored), weight)
    assert stored.nbytes == pruned.nbytes + 4 + 4 * len(weight)  # the seed, and a magnitude a row
    assert int(unpack(stored.streams["seed"])[0]) == seed


def test_signs_and_zeros_that_were_learnt_are_exact_too():
    weight = np.where(np.random.default_rng(0).random((40, 96)) < 0.2, -1, 1) * frozen(3, trained=0)[0]
    weight[::3, ::2] = 0
    stored = CODECS["seed"].quantize(weight.astype(np.float32))
    assert len(unpack(stored[1]["seed"])) == 1
    assert np.array_equal(CODECS["seed"].restore(*stored), weight)


def test_signs_are_even_and_do_not_depend_on_the_machine():
    state, whole = (1 << 40) + 0x9E3779B97F4A7C15, (1 << 64) - 1
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        state = (state ^ (state >> shift)) * factor & whole
    assert signs(1, (64,)).tolist() == [1 if state >> place & 1 else -1 for place in range(64)]
    found = np.stack([signs(seed, (4096,)) for seed in range(16)])
    assert abs(found.mean(1)).max() < 0.06
    assert abs(found @ found.T / 4096 - np.eye(16)).max() < 0.07
