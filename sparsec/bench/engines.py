"""The engines that can be measured: each opens a file and answers with a function that runs it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Run = Callable[[], object]
Feeds = Mapping[str, np.ndarray]


def _sparsec(path: str, feeds: Feeds, threads: int) -> Run:
    from sparsec.runtime import InferenceSession

    session = InferenceSession(path, threads)
    return lambda: session.run(None, feeds)


def _onnxruntime(path: str, feeds: Feeds, threads: int) -> Run:
    from sparsec.graph import ort

    session = ort.session(path, threads)
    return lambda: session.run(None, feeds)


ENGINES: dict[str, Callable[[str, Feeds, int], Run]] = {"sparsec": _sparsec, "onnxruntime": _onnxruntime}
"""Name -> (file, feeds, threads) -> the function to time; `sparsec` opens artifacts, the others ONNX files."""
