"""The engines that can be measured: each opens a file and answers with a function that runs it once and times it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sparsec.errors import SparsecError
from sparsec.target import Target

Timer = Callable[[], float]
"""Runs once; returns the seconds that it took."""
Feeds = Mapping[str, np.ndarray]

CUDA_PROVIDER = "CUDAExecutionProvider"


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


def _sparsec_gpu(path: str, feeds: Feeds, threads: int) -> Timer:
    from sparsec.backends.cuda.replay import replay
    from sparsec.runtime.session import InferenceSession

    return replay(InferenceSession(path, threads).resident(feeds))


def _onnxruntime(path: str, feeds: Feeds, threads: int) -> Timer:
    from sparsec.graph import ort

    session = ort.session(path, threads)
    return _by_the_clock(lambda: session.run(None, feeds))


def _onnxruntime_cuda(path: str, feeds: Feeds, threads: int) -> Timer:
    from sparsec.graph import ort

    session = ort.session(path, threads, (CUDA_PROVIDER, ort.CPU_PROVIDER))
    if CUDA_PROVIDER not in session.get_providers():  # it falls back by itself where a library of CUDA is missing
        raise SparsecError(f"onnxruntime cannot start its {CUDA_PROVIDER}; install the CUDA and cuDNN that its release "
                           "asks for, or compare with --against none")
    return _by_the_clock(lambda: session.run(None, feeds))


ENGINES: dict[str, Callable[[str, Feeds, int], Timer]] = {
    "sparsec": _sparsec, "sparsec, GPU alone": _sparsec_gpu,
    "onnxruntime": _onnxruntime, "onnxruntime, CPU": _onnxruntime, "onnxruntime, CUDA": _onnxruntime_cuda,
}
"""Name -> (file, feeds, threads) -> the timer; `sparsec` opens artifacts, the others ONNX files.

"GPU alone" is the time of the kernels, with inputs and outputs in the GPU's memory; the others' includes the copies.
"""


def own_engines(archs: Sequence[str]) -> list[str]:
    """The names under which sparsec is timed on these architectures of GPUs, none for a CPU."""
    return ["sparsec", "sparsec, GPU alone"] if archs else ["sparsec"]


def onnxruntime_for(archs: Sequence[str]) -> str:
    """The name of onnxruntime beside sparsec on these architectures, which says where it runs."""
    if not archs:
        return "onnxruntime"
    import onnxruntime

    return f"onnxruntime, {'CUDA' if CUDA_PROVIDER in onnxruntime.get_available_providers() else 'CPU'}"


def require_gpu(target: Target) -> None:
    """Check that there is a GPU to time what is compiled for one, before minutes are spent on compiling.

    Raises:
        SparsecError: there is none; says what is missing and how to measure all the same.
        ArtifactError: it is another one; says what to compile for.

    """
    from sparsec.backends.cuda import driver

    if not target.archs:
        return
    gpu = driver.probe()
    if (reason := driver.missing(gpu)) is not None:
        raise SparsecError(f"nothing compiled for '{target.name}' can be timed here: {reason}; compile here with "
                           f"`sparsec compile --target {target.name}` and give the artifact to `sparsec bench` where "
                           "the GPU is")
    driver.check(gpu, target.archs, ())  # whether a newer GPU's driver takes the PTX is checked when there is some
