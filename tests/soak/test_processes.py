"""Forks while threads run, threads without number, sessions without number, and compilations at once: nothing hangs or
stays behind.

`SPARSEC_SOAK_PROCESSES` multiplies how many; `make soak` makes 6,000 forks in all, 20,000 threads and 20,000 sessions.
What is counted is a property of the test in JUnit's report.
"""

import gc
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sparsec
from tests.support.small_session import NETWORK, X, answer
from tests.support.texts import model

TIMES = int(os.environ.get("SPARSEC_SOAK_PROCESSES", "1"))
SMALL = model("g (float[1,8] x) => (float[1,4] y) <float[8,4] w> { h = MatMul(x, w) y = Relu(h) }")
CHILD_S = 60
ARENAS = 100  # mappings that the C library's allocator may add, however many sessions there are


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def artifact(request):
    return sparsec.compile(NETWORK, threads=request.param, tune="off")


def count(kind):
    """Entries of the process's folder: its OS threads ("task"), open files ("fd") or mappings ("maps")."""
    gc.collect()
    place = Path("/proc/self") / kind
    return len(place.read_text().splitlines() if kind == "maps" else list(place.iterdir()))


def wait(child):
    """The child's exit code; one that hangs is killed and fails the test."""
    end = time.monotonic() + CHILD_S
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail(f"a child hangs after {CHILD_S} s")


def test_children_forked_while_threads_run_do_not_hang(artifact):
    session, expected, done = sparsec.InferenceSession(artifact), answer(artifact), threading.Event()

    def work():
        while not done.is_set():
            assert session.run(None, {"x": X})[0].tobytes() == expected

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15 * TIMES):
            child = os.fork()
            if child == 0:
                same = all(session.run(None, {"x": X})[0].tobytes() == expected for _ in range(3))
                os._exit(0 if same else 1)
            assert wait(child) == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_short_threads_share_few_workers(artifact, record_property):
    expected = answer(artifact)
    with sparsec.InferenceSession(artifact) as session:
        assert session.run(None, {"x": X})[0].tobytes() == expected
        before, answers, most = count("task"), set(), 0
        for _ in range(50 * TIMES):
            thread = threading.Thread(target=lambda: answers.add(session.run(None, {"x": X})[0].tobytes()))
            thread.start()
            thread.join()
            most = max(most, sum(1 for _ in Path("/proc/self/task").iterdir()))
        record_property("threads more", most - before)
        assert most <= before + 8
        assert answers == {expected}


def test_closed_sessions_give_everything_back(artifact, record_property):
    def use(*, closed):
        session = sparsec.InferenceSession(artifact)
        output = session.run(None, {"x": X})[0]
        if closed:
            session.close()
            with pytest.raises(sparsec.SparsecError, match="session is closed"):
                session.run(None, {"x": X})
        return output.tobytes()

    answers = {use(closed=True) for _ in range(5)}
    before = {kind: count(kind) for kind in ("fd", "maps", "task")}
    answers |= {use(closed=number % 2 == 0) for number in range(50 * TIMES)}
    assert answers == {answer(artifact)}
    more = {kind: count(kind) - before[kind] for kind in before}
    record_property("more", more)
    assert more["fd"] <= 0
    assert more["task"] <= 8
    assert more["maps"] <= ARENAS, more


def test_compilations_at_once_are_equal():
    def compiled(_):
        begin.wait()
        return sparsec.compile(SMALL, tune="off").to_bytes()

    at_once = 8
    begin = threading.Barrier(at_once)
    with ThreadPoolExecutor(at_once) as pool:
        assert len(set(pool.map(compiled, range(8 if TIMES == 1 else 64)))) == 1


def test_sessions_open_and_close_in_threads(artifact):
    def use(_):
        with sparsec.InferenceSession(artifact) as session:
            return session.run(None, {"x": X})[0].tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(24))) == {answer(artifact)}


class ForkingWhenTaken(list):
    """Idle engines; the last is taken, and not named yet, while the process forks, as a signal handler may."""

    def __init__(self, engines, forked):
        super().__init__(engines)
        self.forked = forked

    def pop(self, index=-1):
        engine = super().pop(index)
        self.forked()
        return engine


@pytest.mark.timeout(60)
def test_a_fork_waits_not_for_an_engine_that_its_own_thread_has_just_taken(artifact):
    session, expected, codes = sparsec.InferenceSession(artifact), answer(artifact), []

    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0 if session.run(None, {"x": X})[0].tobytes() == expected else 1)
        codes.append(wait(child))

    session._engines.idle = ForkingWhenTaken(session._engines.idle, fork)
    assert session.run(None, {"x": X})[0].tobytes() == expected
    assert codes == [0]


def test_a_signal_handler_may_fork_within_a_call(artifact):
    session, expected, codes = sparsec.InferenceSession(artifact), answer(artifact), []

    def fork(*_):
        child = os.fork()
        if child == 0:
            os._exit(0 if session.run(None, {"x": X})[0].tobytes() == expected else 1)
        codes.append(wait(child))

    before = signal.signal(signal.SIGALRM, fork)
    try:
        for number in range(10):
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            while len(codes) <= number:
                assert session.run(None, {"x": X})[0].tobytes() == expected
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert codes == [0] * 10
