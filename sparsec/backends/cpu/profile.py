"""Time every kernel of a lowered model where it runs: in order, with the caches as its neighbours leave them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax

from sparsec.backends.base import KernelTime
from sparsec.backends.cpu.build import prepared
from sparsec.backends.relax.lower import Lowered
from sparsec.backends.relax.timing import CONTINUE, named
from sparsec.machine import tvm_runtime


def profile(lowered: Lowered, feeds: Mapping[str, np.ndarray], rounds: int = 20) -> list[KernelTime]:
    """The calls of one inference, in order; `feeds` has an array for every input."""
    with prepared(lowered) as (module, target):
        executable = relax.build(module, target, relax_pipeline=None, exec_mode="bytecode")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    calls: list[tuple[str, float]] = []
    begun = [0.0]

    def instrument(_function: object, symbol: str, before: bool, *_rest: object) -> int:  # noqa: FBT001 - TVM's signature
        if before:
            begun[0] = time.perf_counter()
        else:
            calls.append((symbol, time.perf_counter() - begun[0]))
        return CONTINUE

    arguments = [tvm.runtime.tensor(a) for a in (*(feeds[spec.name] for spec in lowered.inputs), *lowered.constants)]
    tvm_runtime.call(lowered.threads, machine["main"], *arguments)
    machine.set_instrument(instrument)
    runs = []
    for _ in range(rounds):
        calls.clear()
        tvm_runtime.call(lowered.threads, machine["main"], *arguments)
        runs.append(list(calls))
    seconds = np.median([[spent for _, spent in run] for run in runs], axis=0)
    return named([symbol for symbol, _ in runs[0]], seconds, lowered)
