"""The seams at which accelerators differ, and the registry of those there are.

All accelerators of the survey's table (Hoefler et al. 2021, section 7.2) multiply a compressed matrix by vectors; the
products of a network are those of `vectors`, and which activations are zero is recorded by `network`. An accelerator
adds how it stores the matrix (representation), what its units do with it for given vectors (dataflow and timing), and
what that costs (energy). Another one is another entry, with its own functions and configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.eie import energy, segments, timing
from sparsec.backends.accelerators.eie.activity import Activity
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.segments import Segment
from sparsec.formats.eie import Codes


@dataclass(frozen=True)
class Accelerator:
    """One accelerator.

    Attributes:
        represent: (codes, has a bias column, configuration, layer's name) -> the matrix as stored.
        measure: (stored matrix, (vectors, columns) non-zero activations, configuration) -> what happens.
        energies: models of energy by name: (what happened, configuration) -> pJ by unit.
        power_mw: power while it runs.
        area_mm2: area.

    """

    represent: Callable[[Codes, bool, Architecture, str], list[Segment]]
    measure: Callable[[list[Segment], NDArray[np.bool_], Architecture], Activity]
    energies: Mapping[str, Callable[[Activity, Architecture], dict[str, float]]]
    power_mw: Callable[[Architecture], float]
    area_mm2: Callable[[Architecture], float]


ACCELERATORS = {
    "eie": Accelerator(
        represent=segments.split,
        measure=timing.measure,
        energies={"by power": energy.by_power, "by access": energy.by_access},
        power_mw=energy.power_mw,
        area_mm2=energy.area_mm2,
    ),
}
"""By the name of the target."""
