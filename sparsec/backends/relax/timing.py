"""What timing a lowered model's kernels yields, whichever machine runs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.backends.base import KernelTime
from sparsec.backends.relax.lower import Lowered

CONTINUE = 0  # VMInstrumentReturnKind.NO_OP


def named(symbols: Sequence[str], seconds: Sequence[float] | np.ndarray, lowered: Lowered) -> list[KernelTime]:
    """Our own kernels carry their nodes' names, in the order of the calls; the VM's bookkeeping is left out."""
    calls = iter(lowered.calls)
    ours = {kernel for kernel, _ in lowered.calls}

    def node_of(symbol: str) -> str:  # Relax may have dropped calls in between
        return next(node for kernel, node in calls if kernel == symbol) if symbol in ours else ""

    return [KernelTime(symbol, node_of(symbol), float(spent))
            for symbol, spent in zip(symbols, seconds, strict=True) if not symbol.startswith("vm.")]
