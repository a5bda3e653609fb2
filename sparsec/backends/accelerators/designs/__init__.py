"""The accelerators that can be simulated."""

from __future__ import annotations

from sparsec.backends.accelerators.description import Accelerator
from sparsec.backends.accelerators.designs import (
    ampere,
    cambricon,
    cnvlutin,
    dense,
    eie,
    ese,
    eyeriss,
    eyeriss_v2,
    scnn,
    sigma,
    sparten,
)

ACCELERATORS: dict[str, Accelerator] = {each.name: each for each in (
    cnvlutin.ACCELERATOR,
    eie.ACCELERATOR,
    cambricon.X,
    eyeriss.ACCELERATOR,
    ese.ACCELERATOR,
    scnn.ACCELERATOR,
    cambricon.S,
    eyeriss_v2.ACCELERATOR,
    sparten.ACCELERATOR,
    sigma.ACCELERATOR,
    *dense.DESIGNS,
    scnn.TWIN,
    sigma.SYSTOLIC,
    ampere.ACCELERATOR,
)}
"""By the name of the target, in the survey's order, and the dense ones behind."""
