"""Sessions under load give the same bits from any thread, process and session, and take no more memory as they go on.

`SPARSEC_SOAK_CALLS` sets how many calls are made; `make soak` makes 10^6.
"""

import gc
import multiprocessing
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sparsec
from tests.support.small_session import NETWORK, X, answer

CALLS = int(os.environ.get("SPARSEC_SOAK_CALLS", "30000"))
ALLOWANCE = 2 << 20  # bytes that allocators may still take after the warm-up


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def artifact(request):
    return sparsec.compile(NETWORK, threads=request.param, tune="off")


@pytest.fixture(scope="module")
def expected(artifact):
    return answer(artifact)


def resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def least_growth(work, allowance):
    """Bytes that every round of some work keeps at least: Linux joins pages and takes some back when it likes."""
    grown = []
    while not grown or (min(grown) >= allowance and len(grown) < 3):
        before = resident_bytes()
        work()
        grown.append(resident_bytes() - before)
    return min(grown)


def test_one_session_serves_24_threads(artifact, expected):
    session = sparsec.InferenceSession(artifact)
    begin = threading.Barrier(24)

    def work(_):
        begin.wait()
        return {session.run(None, {"x": X})[0].tobytes() for _ in range(CALLS // 1000)}

    with ThreadPoolExecutor(24) as pool:
        assert set().union(*pool.map(work, range(24))) == {expected}


def test_many_sessions_agree(artifact, expected):
    sessions = [sparsec.InferenceSession(artifact) for _ in range(50)]
    assert {session.run(None, {"x": X})[0].tobytes() for session in sessions} == {expected}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_agree(artifact, expected, method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert set(pool.starmap(answer, [(artifact, 20)] * 4)) == {expected}


def test_calls_leave_no_memory_behind(artifact, expected):
    session = sparsec.InferenceSession(artifact)
    for _ in range(2000):
        session.run(None, {"x": X})

    def calls():
        for _ in range(CALLS):
            output = session.run(None, {"x": X})[0]
        assert output.tobytes() == expected

    assert least_growth(calls, ALLOWANCE) < ALLOWANCE


def test_sessions_leave_no_memory_behind(artifact):
    for _ in range(10):
        answer(artifact)
    sessions = max(30, CALLS // 1000)
    allowance = ALLOWANCE + sessions * (64 << 10)  # the system's linker keeps some for ever
    assert least_growth(lambda: [answer(artifact) for _ in range(sessions)], allowance) < allowance
