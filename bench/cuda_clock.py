"""The clock of `cuda_bench.py`: engines check in one by one, then take turns.

On a GPU an engine's calls are recorded in a CUDA graph, and events enclose its replays, so that no engine pays for its
host code. Where there is none, a rehearsal times the calls themselves, which proves the steps and nothing else.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CALLS, ROUNDS = 20, 15


@dataclass(frozen=True)
class Engine:
    """An engine that has run once.

    Attributes:
        calls: functions that do the work on different copies of the weight; they are called in turn. None where nothing
            can be recorded, and only what a caller waits for counts.
        error: of what they compute, relative to the largest value.
        told: figures besides.
        count: calls of a recording.
        wait: what a caller waits for, copies included, given the recording, None without calls; None where only the device
            counts.

    """

    calls: list[Callable[[], Any]]
    error: float
    told: dict[str, Any] = field(default_factory=dict)
    count: int = CALLS
    wait: Callable[["Recording | None"], Any] | None = None


@dataclass(frozen=True)
class Recording:
    """Calls that can be made again.

    Attributes:
        seconds: makes them and returns the seconds of one.
        replay: makes them.
        result: what the last one returns; its memory is theirs.

    """

    seconds: Callable[[], float]
    replay: Callable[[], Any]
    result: Any


class Gpu:
    """CUDA through PyTorch."""

    name = "cuda"

    def __init__(self):
        import torch

        self.torch = torch
        torch.backends.cudnn.benchmark = True

    def described(self):
        """What the figures are of."""
        torch = self.torch
        properties = torch.cuda.get_device_properties(0)
        cusparselt = getattr(torch.backends, "cusparselt", None)  # not every PyTorch has it
        return {"device": properties.name, "multiprocessors": properties.multi_processor_count,
                "capability": list(torch.cuda.get_device_capability(0)), "cuda": torch.version.cuda,
                "cusparselt": cusparselt and cusparselt.version(), "cudnn": torch.backends.cudnn.version()}

    def copies(self, nbytes):
        """How many copies of a weight to cycle through, so that the L2 cache does not hold the next one."""
        cache = getattr(self.torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
        return min(CALLS, -(-2 * cache // nbytes) + 1)

    def wait(self):
        """Until the GPU is idle."""
        self.torch.cuda.synchronize()

    def healthy(self):
        """Whether the GPU still answers: after a kernel's illegal access it does not, in this process."""
        try:
            return self.torch.ones(1, device="cuda").item() == 1
        except RuntimeError:
            return False

    def record(self, engine):
        """The engine's calls in a graph. They have been made before: their code is loaded, their memory allocated."""
        import tvm_ffi

        torch, graph = self.torch, self.torch.cuda.CUDAGraph()
        # TVM launches on the stream of its own context, so that is set to the one that PyTorch records.
        with torch.cuda.graph(graph), tvm_ffi.use_torch_stream():
            for number in range(engine.count):
                result = engine.calls[number % len(engine.calls)]()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        replays = CALLS // engine.count

        def seconds(_held=(engine, result)):  # replays read and write their memory
            begin.record()
            for _ in range(replays):
                graph.replay()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3 / engine.count / replays

        return Recording(seconds, graph.replay, result)


class Rehearsal:
    """This computer, in place of a GPU."""

    name = "cpu"

    def described(self):
        """That nothing was measured."""
        return {"device": "none: a rehearsal on the CPU", "rehearsal": True}

    def copies(self, _nbytes):
        """There is no use in several."""
        return 1

    def wait(self):
        """Calls end when they return."""

    def healthy(self):
        """Nothing can break it."""
        return True

    def record(self, engine):
        """As `Gpu.record`."""
        return Recording(lambda: elapsed(engine.calls[0]), engine.calls[0], engine.calls[0]())


def elapsed(call):
    """The seconds that a call takes by the clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(results, case, engines, clock, rounds=ROUNDS):
    """Measure a case: every engine is checked by itself, then those that ran take turns.

    Args:
        results: where figures are kept; an engine that has failed before is left out.
        case: its name.
        engines: name -> a function that prepares an `Engine`.
        clock: `Gpu` or `Rehearsal`.
        rounds: turns of each engine.

    """
    known, timers = results.engines(case), {}
    for name, prepare in engines.items():
        if "failed" in known.get(name, {}):
            continue
        results.begin(case, name)
        try:
            engine = prepare()
            recording = clock.record(engine) if engine.calls else None
            clock.wait()
        except Exception as failure:
            first = (str(failure).strip() or "no message").splitlines()[0]
            known[name] = {"failed": f"{type(failure).__name__}: {first[:200]}"}
            if not clock.healthy():  # what fails from here on is not the others' fault
                results.save()
                raise
            continue
        known[name] = {"error": engine.error, **engine.told}
        if recording is not None:
            timers[name, "us"] = recording.seconds
        if engine.wait is not None:
            timers[name, "call_us"] = lambda engine=engine, recording=recording: elapsed(lambda: engine.wait(recording))
    results.begin(case)
    times = {key: [] for key in timers}
    for _ in range(rounds):
        for key, timer in timers.items():
            times[key].append(timer())
    for (name, what), each in times.items():
        known[name] |= {what: float(np.median(each)) * 1e6,
                        f"{what}_spread": float(np.percentile(each, 90) / np.percentile(each, 10))}
    results.finish(case)


def relative_error(actual, expected):
    """The largest difference over the expected largest magnitude, of two tensors of one device."""
    return float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())
