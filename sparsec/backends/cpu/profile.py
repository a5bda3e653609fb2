"""Time every kernel of a lowered model where it runs: in order, with the caches as its neighbours leave them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from sparsec.backends.cpu.build import prepared
from sparsec.backends.cpu.lower import Lowered
from sparsec.machine import tvm_runtime

CONTINUE = 0  # VMInstrumentReturnKind.NO_OP


@dataclass(frozen=True)
class KernelTime:
    """One call of a run.

    Attributes:
        kernel: the function's symbol.
        node: the graph node it computes, "" for what Relax fused from several.
        seconds: its median time.

    """

    kernel: str
    node: str
    seconds: float


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


def named(symbols: Sequence[str], seconds: Sequence[float] | np.ndarray, lowered: Lowered) -> list[KernelTime]:
    """Our own kernels carry their nodes' names, in the order of the calls; the VM's bookkeeping is left out."""
    calls = iter(lowered.calls)
    ours = {kernel for kernel, _ in lowered.calls}

    def node_of(symbol: str) -> str:  # Relax may have dropped calls in between
        return next(node for kernel, node in calls if kernel == symbol) if symbol in ours else ""

    return [KernelTime(symbol, node_of(symbol), float(spent))
            for symbol, spent in zip(symbols, seconds, strict=True) if not symbol.startswith("vm.")]
