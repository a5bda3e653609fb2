"""The accelerators that can be simulated."""

from __future__ import annotations

from sparsec.backends.accelerators.description import Accelerator
from sparsec.backends.accelerators.designs import (
    ampere,
    cambricon,
    cnvlutin,
    dense,
    eager_pruning,
    eie,
    ese,
    eyeriss,
    eyeriss_v2,
    masr,
    minerva,
    procrustes,
    scnn,
    sigma,
    sparsenn,
    sparten,
    spectral,
    zena,
)

ACCELERATORS: dict[str, Accelerator] = {each.name: each for each in (
    cnvlutin.ACCELERATOR,
    eie.ACCELERATOR,
    minerva.ACCELERATOR,
    cambricon.X,
    eyeriss.ACCELERATOR,
    ese.ACCELERATOR,
    scnn.ACCELERATOR,
    sparsenn.ACCELERATOR,
    cambricon.S,
    zena.ACCELERATOR,
    eyeriss_v2.ACCELERATOR,
    sparten.ACCELERATOR,
    masr.ACCELERATOR,
    spectral.SPEC2,
    eager_pruning.ACCELERATOR,
    spectral.SPECTRAL_CNN,
    sigma.ACCELERATOR,
    procrustes.ACCELERATOR,
    *dense.DESIGNS,
    scnn.TWIN,
    sigma.SYSTOLIC,
    ampere.ACCELERATOR,
)}
"""By the name of the target, in the survey's order, and the dense ones behind."""
