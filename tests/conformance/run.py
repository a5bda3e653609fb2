"""Conformance: every case through reading, lowering, building and running.

    python -m tests.conformance.run [SUITE ...]

prints how many cases of each suite are right, refused by name, wrong or crashed, and every one that is not right; the
exit code is 1 if one is wrong or crashed.
"""

import collections
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from sparsec.backends.cpu.build import build
from sparsec.backends.cpu.lower import lower
from sparsec.errors import SparsecError
from sparsec.graph.reader import load
from sparsec.target import resolve
from tests.backends.vm import run
from tests.conformance.cases import SUITES, collect

VERDICTS = ("right", "refused", "wrong", "crashed")


def classify(case, target="cpu"):
    """The verdict on a case, and the reason for it."""
    try:
        model = load(case.model)
        given = [value.name for value in case.model.graph.input
                 if value.name not in {init.name for init in case.model.graph.initializer}]
        names = given if len(given) == len(case.inputs) else [value.name for value in case.model.graph.input]
        got = run(build(lower(model, resolve(target))), dict(zip(names, case.inputs, strict=False)))
    except SparsecError as error:
        return "refused", " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001 - any other exception is what this looks for
        return "crashed", f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"
    for expected, actual in zip(case.outputs, got, strict=True):
        if expected.shape != actual.shape or expected.dtype != actual.dtype:
            return "wrong", f"{actual.dtype}{actual.shape} instead of {expected.dtype}{expected.shape}"
        if not np.allclose(actual.astype("f8"), expected.astype("f8"), case.rtol, case.atol, equal_nan=True):
            return "wrong", f"differs by {np.max(np.abs(actual.astype('f8') - expected.astype('f8')))}"
    return "right", ""


def main(suites):
    """Classify the suites and print the table; whether nothing is wrong or crashed."""
    os.environ["TVM_NUM_THREADS"] = "1"
    good = True
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("forkserver")) as pool:
        for suite in suites or SUITES:
            cases = collect(suite)
            verdicts = list(pool.map(classify, cases, chunksize=8))
            count = collections.Counter(verdict for verdict, _ in verdicts)
            for case, (verdict, reason) in zip(cases, verdicts, strict=True):
                if verdict != "right":
                    print(f"{verdict:8s} {case.name}: {reason[:200]}")
            print(f"{suite}: {len(cases)} cases, " + ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS))
            good = good and not count["wrong"] and not count["crashed"]
    return good


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
