"""Where the time of a call goes in an artifact for run-time sizes: its steps one by one, and the bytes that they read.

A token of a decoder runs as one function, see `runtime.sized.token`; the steps are what it does.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.machine import tvm_runtime
from sparsec.machine.blas import within
from sparsec.machine.memory import HOST
from sparsec.runtime.sized.growing import Copies, reserved
from sparsec.runtime.sized.program import SizedProgram

ROUNDS = 9
ROOM = 64
"""Places that caches have to spare, as in the midst of a text."""


@dataclass(frozen=True)
class Step:
    """A stage of rows, or all steps of an operator.

    Attributes:
        name: of a stage its first output; else the operator, and how often it runs.
        us: microseconds of a call, the median.
        bytes: of the constants that a stage reads; None of others.

    """

    name: str
    us: float
    bytes: int | None = None


@dataclass(frozen=True)
class SizedProfile:
    """What a call does.

    Attributes:
        sizes: of the dimensions.
        steps: the stages in order, then the operators between them, the longest first.
        call_us: microseconds of a whole call.
        as_one: whether it runs as one function.
        repeated: whether it repeats one that is remembered, without what Python does before every step.
        weight_bytes: of the constants that are read.
        cache_bytes: of the caches that are read.
        copied_bytes: of caches that are copied; none where their buffers have room.

    """

    sizes: Mapping[str, int]
    steps: tuple[Step, ...]
    call_us: float
    as_one: bool
    repeated: bool
    weight_bytes: int
    cache_bytes: int
    copied_bytes: int


def profile_sized(artifact: Artifact, feeds: Mapping[str, np.ndarray]) -> SizedProfile:
    """Time an artifact for run-time sizes on inputs, with caches in buffers of their own.

    Raises:
        InputError: the inputs are not the model's.

    """
    program = SizedProgram(artifact, HOST)
    runner, threads = program.runner(), artifact.manifest.threads
    call = within(threads, runner)
    _, sizes = program.bind(feeds)
    outputs, copied, calls, rounds = range(len(program.outputs)), Copies.nbytes, [], []
    for _ in range(ROUNDS):
        own = _own(program, feeds)
        begin = time.perf_counter()
        tvm_runtime.call(threads, call, own, outputs)
        calls.append(1e6 * (time.perf_counter() - begin))
    copied = (Copies.nbytes - copied) // ROUNDS
    for _ in range(ROUNDS):
        seconds: list[float] = []
        tvm_runtime.call(threads, call, _own(program, feeds), outputs, seconds)
        rounds.append(seconds)
    steps = _named(program, [1e6 * statistics.median(each) for each in zip(*rounds, strict=True)], sizes)
    return SizedProfile(sizes, steps, statistics.median(calls), runner.runs_as_one(sizes),
                        runner.remembers, sum(each.bytes or 0 for each in steps),
                        sum(feeds[name].nbytes for name in program.caches), copied)


def _own(program: SizedProgram, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs, with caches in buffers that have room."""
    own = dict(feeds)
    for name in program.caches:
        given = feeds[name]
        own[name] = reserved(given.shape, given.dtype, given.shape[2] + ROOM)
        own[name][...] = given
    return own


def _named(program: SizedProgram, times: Sequence[float], sizes: Mapping[str, int]) -> tuple[Step, ...]:
    """The steps for their microseconds."""
    stages: list[Step] = []
    others: dict[str, list[float]] = defaultdict(list)
    for step, spent in zip(program.steps, times, strict=True):
        if step["op"] == "rows":
            stages.append(Step(f"rows to {step['outputs'][0]}", spent, program.weight_bytes(step, sizes)))
        elif spent:
            others[step["op"].rpartition(":")[2]].append(spent)
    rest = [Step(name if len(each) == 1 else f"{name}, {len(each)} times", sum(each)) for name, each in others.items()]
    return *stages, *sorted(rest, key=lambda each: -each.us)
