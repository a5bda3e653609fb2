"""Cycles, stalls, accesses and sums: the recurrence against the authors' simulator and against the event model."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from sparsec.backends.accelerators.eie import events, timing
from sparsec.backends.accelerators.eie.activity import Activity
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.segments import split
from sparsec.backends.accelerators.fixed_point import FixedPoint, fitting, multiply, rescale
from sparsec.formats import eie
from tests.support.eie import FC8, needs_fc8, random_codes


@pytest.fixture(scope="module")
def fc8():
    data = np.load(FC8)
    return data["codes"], data["codebook"], np.append(data["activations"], np.float32(1))


@needs_fc8
@pytest.mark.parametrize(("fifo", "cycles"), [(7, 7926), (8, 7896)])
def test_alexnet_fc8_takes_the_cycles_of_the_authors_simulator(fc8, fifo, cycles):
    codes, _, activations = fc8
    arch = Architecture(fifo=fifo)
    activity = timing.measure(split(codes, True, arch, "fc8"), activations[None] != 0, arch)
    assert activity.cycles == cycles
    assert (activity.entries, activity.busiest) == (453_748, 7_778)
    assert (activity.weight_reads, activity.pointer_reads) == (100_900, 112_640)
    assert arch.microseconds(activity.entries / arch.pes) == pytest.approx(8.862, abs=0.001)


@needs_fc8
def test_alexnet_fc8_in_float_and_in_fixed_point(fc8):
    codes, codebook, activations = fc8
    expected = codebook[codes].astype(np.float64) @ activations
    assert (expected.argmax(), expected.max()) == (708, pytest.approx(14.534, abs=1e-3))
    assert np.abs(codebook[codes] @ activations - expected).max() < 1e-4 * expected.max()
    weight, source, result = (fitting(float(np.abs(x).max()), 16) for x in (codebook, activations, 2 * expected))
    shift = weight.fraction + source.fraction - result.fraction
    run = events.simulate(eie.encode(codes, 64), weight.quantize(codebook), source.quantize(activations),
                          Architecture(), shift)
    outputs = result.dequantize(run.accumulators)
    assert run.activity.cycles == 7896
    assert run.saturated == 0
    assert outputs.argmax() == 708
    assert np.abs(outputs - expected).max() < 2e-3 * expected.max()


def random_case(seed):
    """A configuration, a segment, shared weights and activations."""
    rng = np.random.default_rng(seed)
    arch = Architecture(pes=int(rng.integers(1, 20)), fifo=int(rng.integers(1, 12)), index_bits=int(rng.integers(1, 6)),
                        weight_read_bits=int(rng.choice([16, 64, 128])))
    rows, columns = rng.integers(1, 90, 2)
    codes = random_codes(rng, rows, columns, rng.choice([0, 0.05, 0.3, 1]))
    activations = (rng.integers(-3000, 3000, columns) * (rng.random(columns) < rng.choice([0, 0.1, 0.5, 1])))
    codebook = np.concatenate(([0], rng.integers(-32767, 32768, 15)))
    return arch, codes, codebook.astype(np.int32), activations.astype(np.int32), int(rng.integers(8, 16))


@pytest.mark.parametrize("seed", range(0, 400, 20))
def test_event_model_and_recurrence_agree(seed):
    for each in range(seed, seed + 20):
        arch, codes, codebook, activations, shift = random_case(each)
        stored = eie.encode(codes, arch.pes, arch.index_bits)
        run = events.simulate(stored, codebook, activations, arch, shift)
        activity = timing.run(stored, activations[None] != 0, arch)
        assert run.activity == activity, each
        sums, saturated = multiply(scipy.sparse.csc_array(codes), codebook, activations[:, None], shift, 32767)
        assert np.array_equal(run.accumulators, sums[:, 0]), each
        assert run.saturated == saturated
        spent = activity.entries + activity.empty + activity.starved + activity.tail + activity.drain
        assert spent == arch.pes * activity.cycles


def test_adjacent_entries_of_one_row_need_the_bypass():
    codes, activations = np.ones((1, 9), np.uint8), np.arange(1, 10, dtype=np.int32)
    codebook = np.array([0, 7], np.int32)
    run = events.simulate(eie.encode(codes), codebook, activations, Architecture(pes=1), 0)
    assert run.accumulators.tolist() == [7 * 45]
    assert run.bypasses == 8


def test_trace_of_events_is_complete():
    arch, codes, codebook, activations, shift = random_case(7)
    run = events.simulate(eie.encode(codes, arch.pes, arch.index_bits), codebook, activations, arch, shift)
    assert len(run.broadcasts) == np.count_nonzero(activations)
    assert len(run.columns) == arch.pes * len(run.broadcasts)
    assert len(run.stalls) == run.activity.full


@given(st.integers(0, 2**32 - 1))
def test_vectors_side_by_side_are_vectors_one_by_one(seed):
    rng = np.random.default_rng(seed)
    arch = Architecture(pes=4, fifo=2)
    stored = eie.encode(random_codes(rng, 30, 25, 0.3), arch.pes)
    active = rng.random((5, 25)) < rng.random((5, 1))
    together = timing.run(stored, active, arch)
    assert together == sum((timing.run(stored, row[None], arch) for row in active), Activity())


def test_batches_move_activations_between_sram_and_registers():
    arch = Architecture(pes=4, registers=8)
    codes = random_codes(np.random.default_rng(0), 70, 50, 0.5)
    segments = split(codes, False, arch, "layer")
    assert {(s.rows, s.columns) for s in segments} == {
        (rows, columns) for rows in ((0, 32), (32, 64), (64, 70)) for columns in ((0, 32), (32, 50))}
    active = np.ones((2, 50), np.bool_)
    activity = timing.measure(segments, active, arch)
    loads, stores = 3 * (2 + 2), 2 + 2 + 1  # 8 or 5 activations of 16 bits a PE, 64 at a time; rows as well
    assert activity.transfer == 2 * (loads + stores) - 2 - 1
    assert activity.cycles == activity.transfer + sum(timing.run(s.stored, active[:, slice(*s.columns)], arch).cycles
                                                      for s in segments)


def test_a_deeper_queue_never_takes_longer():
    arch, codes, _, activations, _ = random_case(3)
    stored = eie.encode(codes, arch.pes, arch.index_bits)
    cycles = [timing.run(stored, activations[None] != 0, Architecture(pes=arch.pes, fifo=depth)).cycles
              for depth in (1, 2, 4, 8, 16)]
    assert cycles == sorted(cycles, reverse=True)


@pytest.mark.parametrize(("product", "shift", "expected"), [
    (5, 1, 3), (-5, 1, -2), (6, 2, 2), (-6, 2, -1), (3, 0, 3), (2**30 - 1, 31, 0), (-(2**30), 40, 0)])
def test_products_round_to_nearest_with_ties_up(product, shift, expected):
    assert rescale(np.array([product], np.int32), shift).tolist() == [expected]


def test_sums_saturate_one_by_one():
    codes = scipy.sparse.csc_array(np.ones((1, 3), np.uint8))
    sums, saturated = multiply(codes, np.array([0, 30_000], np.int32), np.array([[1], [1], [-1]], np.int32), 0, 32_767)
    assert (sums.tolist(), saturated) == ([[2_767]], 1)


@given(st.floats(1e-6, 1e6), st.integers(4, 16))
def test_the_finest_format_that_holds_a_magnitude(largest, bits):
    number = fitting(largest, bits)
    step = 2.0**-number.fraction
    held = number.dequantize(number.quantize(np.array([largest, -largest], np.float32)))
    assert np.abs(held - [largest, -largest]).max() <= 1.01 * step
    assert FixedPoint(bits, number.fraction + 1).quantize(np.array([largest], np.float32))[0] == number.limit
