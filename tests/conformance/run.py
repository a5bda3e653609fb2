"""Conformance: every case compiled and run, as a user would.

    python -m tests.conformance.run [SUITE ...] [--target NAME] [--open batch|all]

prints every case that is not right, with the reason, and how many of each suite are right, refused by name, wrong or
crashed; the exit code is 1 if one is wrong or crashed.
"""

import argparse
import collections
import functools
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import sparsec
from sparsec.errors import InternalError
from tests.conformance.cases import BATCH, SUITES, collect, given, opened

OPEN = {"batch": BATCH, "all": slice(None)}
VERDICTS = ("right", "refused", "wrong", "crashed")


def classify(case, target="cpu"):
    """The verdict on a case, and the reason for it."""
    try:
        artifact = sparsec.compile(case.model, target, tune="off", verify=False)
        names = [value.name for value in (given(case.model), case.model.graph.input)[
            len(case.inputs) > len(given(case.model))]]
        feeds = dict(zip(names, case.inputs, strict=False))
        session = sparsec.InferenceSession(artifact)
        got = session.run(None, {info.name: feeds[info.name] for info in session.get_inputs()})
    except sparsec.SparsecError as error:
        return "crashed" if isinstance(error, InternalError) else "refused", " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001 - any other exception is what this looks for
        return "crashed", f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"
    for expected, actual in zip(case.outputs, got, strict=True):
        if expected.shape != actual.shape or expected.dtype != actual.dtype:
            return "wrong", f"{actual.dtype}{actual.shape} instead of {expected.dtype}{expected.shape}"
        if not np.allclose(actual.astype("f8"), expected.astype("f8"), case.rtol, case.atol, equal_nan=True):
            return "wrong", f"differs by {np.max(np.abs(actual.astype('f8') - expected.astype('f8')))}"
    return "right", ""


def main(arguments):
    """Classify the suites and print the table; whether nothing is wrong or crashed."""
    parser = argparse.ArgumentParser(description="Run ONNX's backend tests.")
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], metavar="SUITE")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--open", choices=OPEN, help="sizes that only the run tells")
    options = parser.parse_args(arguments)
    os.environ["TVM_NUM_THREADS"] = "1"
    counts = {}
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("forkserver")) as pool:
        for suite in options.suites or SUITES:
            cases = collect(suite)
            cases = [opened(case, OPEN[options.open]) for case in cases] if options.open else cases
            verdicts = list(pool.map(functools.partial(classify, target=options.target), cases, chunksize=8))
            counts[suite] = collections.Counter(verdict for verdict, _ in verdicts)
            for case, (verdict, reason) in zip(cases, verdicts, strict=True):
                if verdict != "right":
                    print(f"{verdict:8s} {case.name}: {reason[:200]}", flush=True)
    total = sum(counts.values(), collections.Counter())
    print(f"\n{'suite':18s}{'cases':>8s}", *(f"{verdict:>8s}" for verdict in VERDICTS))
    for suite, count in [*counts.items(), ("all", total)]:
        print(f"{suite:18s}{count.total():8d}", *(f"{count[verdict]:8d}" for verdict in VERDICTS))
    return not total["wrong"] and not total["crashed"]


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
