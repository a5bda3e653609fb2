"""The engines that can be measured: each opens a file and answers with a function that runs it once and times it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from sparsec.backends.base import Backend
from sparsec.backends.job import Feeds
from sparsec.backends.registry import BACKENDS
from sparsec.errors import SparsecError

Timer = Callable[[], float]
"""Runs once; returns the seconds that it took."""


def _by_the_clock(run: Callable[[], object]) -> Timer:
    """What a caller waits for, copies of inputs and outputs included."""
    def timer() -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    return timer


def _sparsec(path: str, feeds: Feeds, threads: int) -> Timer:
    from sparsec.runtime.session import InferenceSession

    session = InferenceSession(path, threads)
    return _by_the_clock(lambda: session.run(None, feeds))


def _sparsec_alone(path: str, feeds: Feeds, threads: int, *, backend: Backend) -> Timer:
    from sparsec.runtime.session import InferenceSession

    return backend.replay(InferenceSession(path, threads).resident(feeds))


def _onnxruntime(path: str, feeds: Feeds, threads: int) -> Timer:
    from sparsec.graph import ort

    session = ort.session(path, threads)
    return _by_the_clock(lambda: session.run(None, feeds))


def _onnxruntime_by(path: str, feeds: Feeds, threads: int, *, provider: str) -> Timer:
    from sparsec.graph import ort

    session = ort.session(path, threads, (provider, ort.CPU_PROVIDER))
    if provider not in session.get_providers():  # it falls back by itself where one of the provider's libraries lacks
        raise SparsecError(f"onnxruntime cannot start its {provider}; install the libraries that its release asks "
                           "for, such as CUDA and cuDNN, or compare with --against none")
    return _by_the_clock(lambda: session.run(None, feeds))


def own_engines(backend: Backend, *, alone: bool) -> list[str]:
    """The names under which sparsec's programs of a backend are timed, on its device `alone` as well."""
    return ["sparsec", _alone(backend)] if backend.device and alone else ["sparsec"]


def onnxruntime_for(backend: Backend) -> str:
    """The name of onnxruntime beside sparsec's programs of a backend, which says where it runs."""
    if not backend.provider:
        return "onnxruntime"
    from sparsec.graph import ort  # it imports ONNX, whose memory is not to count as sparsec's

    return _onnxruntime_on(backend.provider if backend.provider in ort.load().get_available_providers() else "CPU")


def _alone(backend: Backend) -> str:
    return f"sparsec, {backend.device} alone"


def _onnxruntime_on(provider: str) -> str:
    return f"onnxruntime, {provider.removesuffix('ExecutionProvider')}"


DEVICES = [each for each in BACKENDS.values() if each.device]
"""The backends whose programs run beside the processor."""

ENGINES: dict[str, Callable[[str, Feeds, int], Timer]] = {
    "sparsec": _sparsec, **{_alone(each): partial(_sparsec_alone, backend=each) for each in DEVICES},
    "onnxruntime": _onnxruntime, _onnxruntime_on("CPU"): _onnxruntime,
    **{_onnxruntime_on(each.provider): partial(_onnxruntime_by, provider=each.provider) for each in DEVICES},
}
"""Name -> (file, feeds, threads) -> the timer; `sparsec` opens artifacts, the others ONNX files.

"GPU alone" is the time of the kernels, with inputs and outputs in the GPU's memory; the others' includes the copies.
"""
