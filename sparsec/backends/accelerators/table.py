"""The survey's table (Hoefler et al. 2021, table 1) from the descriptions."""

from __future__ import annotations

from collections.abc import Iterable

from sparsec.backends.accelerators.description import Accelerator
from sparsec.backends.accelerators.layer import Operator

COLUMNS = ("Accelerator", "Ops", "w mem", "y mem", "y comp", "Load Balancing", "Reuse")


def row(accelerator: Accelerator) -> tuple[str, ...]:
    """An accelerator's cells."""
    return (accelerator.title, operators(accelerator.operators), accelerator.weights.family,
            accelerator.activations.family, "x" if accelerator.skips_activations or accelerator.gates else "-",
            accelerator.balance, accelerator.reuse)


def operators(runs: Iterable[Operator]) -> str:
    """The survey's word for what an accelerator runs: SpMM is linear layers and convolutions, an LSTM is an RNN."""
    kinds = {each.value for each in runs}
    kinds -= {"LSTM"} if "RNN" in kinds else set()
    return "SpMM" if {"FC", "Conv"} <= kinds else ", ".join(sorted(kinds))
