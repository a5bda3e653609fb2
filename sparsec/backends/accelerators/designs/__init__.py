"""The accelerators that can be simulated."""

from __future__ import annotations

from sparsec.backends.accelerators.description import Accelerator
from sparsec.backends.accelerators.designs import dense, eie, sparten

ACCELERATORS: dict[str, Accelerator] = {each.name: each for each in (
    *dense.DESIGNS, eie.ACCELERATOR, sparten.ACCELERATOR,
)}
"""By the name of the target."""
