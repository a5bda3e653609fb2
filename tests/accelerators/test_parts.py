"""The parts: schemes keep every value in exactly their bits, and waiting is what stepping through cycles gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.mapping import Work, greedy, shares
from sparsec.backends.accelerators.representation import Bitmap, BlockIndex, Dense, Offsets, RunLength
from sparsec.backends.accelerators.table import COLUMNS, row
from sparsec.backends.accelerators.timing import barrier, clustered, dealt, dynamic, independent, queued

SCHEMES = dict.fromkeys((
    Dense(), RunLength(4), RunLength(2, 8), Bitmap(), Bitmap(8, 32), Offsets(16), Offsets(4),
    BlockIndex(16), BlockIndex(4),
    *(scheme for each in ACCELERATORS.values() for scheme in (each.weights, each.activations))))


@st.composite
def fibres(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 90))
    return (rng.integers(-127, 128, shape) * (rng.random(shape) < rng.choice([0, 0.03, 0.4, 1]))).astype(np.int32)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@given(values=fibres())
def test_what_is_stored_is_read_back_and_takes_the_bits_it_is_said_to(scheme, values):
    stored = scheme.encode(values, 8)
    entries = scheme.decode(stored)
    assert np.array_equal(entries.dense(values.shape), values)
    assert np.array_equal(scheme.count(values != 0), np.diff(entries.starts))
    assert scheme.bits(values != 0, 8) == stored.bits
    for words in stored.memories.values():
        if words.width:
            assert words.values.min(initial=0) >= 0
            assert words.values.max(initial=0) < 1 << words.width


def test_a_long_run_takes_padding_entries():
    """ESE's example: 16 zeros between 1 and 3 (Han et al., FPGA 2017, section 4.2)."""
    stored = RunLength(4).encode(np.array([[0, 0, 1, *[0] * 16, 3]], np.int32), 12)
    assert stored.memories["values"].values.tolist() == [1, 0, 3]
    assert stored.memories["runs"].values.tolist() == [2, 15, 0]


@st.composite
def works(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.integers(1, 12))
    return Work(rng.integers(0, draw(st.sampled_from([2, 9])), (steps, 4)), 0, times=rng.integers(1, 3, steps))


def stepped_barrier(cycles, cluster):
    """Clusters of units that take up a step together, clock by clock."""
    clock, groups = 0, cycles.reshape(len(cycles), -1, cluster).transpose(1, 0, 2)
    left, at = [group[0].copy() for group in groups], [0] * len(groups)
    while any(step < len(cycles) for step in at):
        for i, group in enumerate(groups):
            while at[i] < len(cycles) and not left[i].any():
                at[i] += 1
                left[i] = group[at[i]].copy() if at[i] < len(cycles) else left[i]
            left[i] = np.maximum(left[i] - 1, 0)
        clock += any(step < len(cycles) for step in at)
    return clock


def stepped_queue(cycles, depth):
    """Units with queues, clock by clock: a step is sent where every queue has room at the clock's start."""
    steps, units = cycles.shape
    sent, taken, busy, clock = 0, [0] * units, [0] * units, 0
    while sent < steps or any(busy) or any(each < steps for each in taken):
        clock += 1
        room = max(sent - each for each in taken) < depth
        for unit in range(units):
            if not busy[unit] and taken[unit] < sent:
                busy[unit] = max(1, cycles[taken[unit], unit])
                taken[unit] += 1
            busy[unit] = max(0, busy[unit] - 1)
        sent += room and sent < steps
    return clock


def stepped_dynamic(cycles, units):
    """Whoever is idle takes the next item, clock by clock; a step's items are all done before the next's."""
    clock = 0
    for items in cycles:
        left, queue = [0] * units, [int(item) for item in items if item]
        while queue or any(left):
            for unit in range(units):
                if not left[unit] and queue:
                    left[unit] = queue.pop(0)
            left = [max(0, each - 1) for each in left]
            clock += 1
    return clock


DISCIPLINES = {
    "barrier": (barrier, lambda cycles: stepped_barrier(cycles, 4)),
    "clustered": (clustered, lambda cycles: stepped_barrier(cycles, 2)),
    "independent": (independent, lambda cycles: cycles.sum(axis=0).max()),
    "dynamic": (dynamic, lambda cycles: stepped_dynamic(cycles, 4)),
    "dealt": (dealt, lambda cycles: stepped_barrier(cycles, 4)),
    "queued": (queued, lambda cycles: stepped_queue(cycles, 3) + 1),
}


@pytest.mark.parametrize(("discipline", "stepped"), DISCIPLINES.values(), ids=DISCIPLINES)
@given(work=works())
def test_waiting_is_what_stepping_gives_and_adds_up(discipline, stepped, work):
    timing = discipline(work, {"units": 4, "cluster": 2, "queue": 3})
    assert timing.cycles == stepped(np.repeat(work.cycles, work.times, axis=0))
    assert work.busy + sum(timing.waits.values()) == 4 * timing.cycles
    assert min(timing.waits.values()) >= 0


def test_parts_of_a_queue_wait_for_each_other():
    one, two = np.array([[3, 1], [0, 2]]), np.array([[1, 1]])
    alone = [queued(Work(cycles, 0), {"queue": 2}) for cycles in (one, two)]
    both = queued(Work(np.vstack((one, two)), 0, parts=np.array([2, 0, 1])), {"queue": 2})
    assert both.cycles == sum(timing.cycles for timing in alone)


@given(loads=st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_greedy_is_within_the_largest_of_an_even_share(loads):
    loads = np.array(loads)
    unit = greedy(loads, 4)
    heaviest = np.bincount(unit, loads, 4).max()
    assert heaviest <= loads.sum() / 4 + loads.max()


def test_shares_are_dealt_in_turns():
    assert shares(np.arange(1, 6)[None], 3).tolist() == [[1, 2, 3], [4, 5, 0]]


SURVEY = """
Cnvlutin [2016] | conv | - | COO* | x | group neurons | output
EIE [2016a] | FC | CSC | - | x | activation queuing | output
Minerva [2016] | FC | - | - | x | N/A | -
Cambricon-X [2016] | SpMM | CSC | - | x | N/A | output
Eyeriss [2017] | conv | - | - | x | - | row
ESE [2017] | LSTM | CSC | - | x | block-balanced | output
SCNN [2017] | Conv | CSC | CSC | x | N/A | input act.
SparseNN [2017] | FC | - | - | x | N/A | N/A
Cambricon-S [2018] | SpMM | COO | - | x | group output neurons | output
Zena [2018] | Conv | BM | BM | x | dynamic group alloc. | N/A
Eyeriss v2 [2019] | SpMM | CSC | CSC | x | activation queuing | row
SparTen [2019] | SpMM | BM | BM | x | precomputed greedy | output
MASR [2019] | RNN | BM | BM | x | dyn. act. assignment | N/A
SPEC2 [2019] | Conv | COO | - | - | - | weight/kernel
Eager Pruning [2019] | SpMM | BM | - | x | dynamic output | weight
Spectral CNN [2020] | Conv | COO | - | - | - | input act.
Sigma [2020] | SpMM | BM | BM | x | - | input/weight
Procrustes [2020a] | SpMM | CB | - | - | split minibatch for LB | minibatch
"""
"""Hoefler et al. 2021, table 1."""


def same(cell, other):
    """Cells are equal but for capitals: the survey writes conv and Conv."""
    return cell.lower() == other.lower()


@pytest.mark.parametrize("accelerator", [each for each in ACCELERATORS.values() if each.surveyed], ids=lambda a: a.name)
def test_the_surveys_row_is_that_of_the_description_or_the_difference_is_cited(accelerator):
    rows = {line.split(" | ")[0]: line.split(" | ") for line in SURVEY.strip().splitlines()}
    here = dict(zip(COLUMNS, row(accelerator), strict=True))
    survey = dict(zip(COLUMNS, rows[accelerator.title], strict=True))
    assert {column for column in COLUMNS if not same(here[column], survey[column])} == set(accelerator.differs)


def test_the_table_has_the_surveys_rows_in_its_order():
    order = [line.split(" | ")[0] for line in SURVEY.strip().splitlines()]
    titles = [each.title for each in ACCELERATORS.values() if each.surveyed]
    assert titles == order
