"""What a backend is asked for: the options that shape a program, and what is known before layers are planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sparsec.target import Target

if TYPE_CHECKING:  # sessions import this module, and none of the compiler's packages
    import onnx_ir as ir

    from sparsec.cost.calibration import Calibration
    from sparsec.cost.option import Option
    from sparsec.cost.tuning import TuningLog
    from sparsec.kernels.ranges import LayerSamples

Feeds = Mapping[str, np.ndarray]
"""Inputs by name."""


class Announce(Protocol):
    """Is told of every step; a long one tells several times of the share of it that is done, 0 to 1."""

    def __call__(self, step: str, part: float = 0.0, measuring_s: float = 0.0) -> None:
        """The step that begins or goes on, how much of it is done, and how long measuring may still take in it."""


def silent(step: str, part: float = 0.0, measuring_s: float = 0.0) -> None:
    """Tells nobody."""


class Measurer(Protocol):
    """What times kernels, here or elsewhere."""

    @property
    def machine(self) -> str:
        """What the tuning log knows the machine by."""
        ...

    @property
    def workers(self) -> int:
        """How many kernels are timed at once."""
        ...

    @property
    def here(self) -> bool:
        """Whether that is this machine, which can time whole programs, too."""
        ...

    def prepare(self, options: Sequence[Option], target: Target, threads: int) -> None:
        """Compile what is measured next, as far as that is done sooner for several kernels at once."""
        ...

    def measure(self, node: ir.Node, option: Option, target: Target, threads: int) -> float | None:
        """Seconds that an option takes for a node; infinity where it fails, None where it cannot be timed here."""
        ...


@dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """The options of `sparsec.compile` that shape the program; `compiler.options` describes them."""

    threads: int = 1
    precision: str | None = None
    optimize: str = "latency"
    codec: str = "f32"
    strict_ieee: bool = False
    project_2of4: bool = False
    dependent_launch: str = "measure"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a graph is compiled for.

    Attributes:
        options: those of the caller, whole.
        target, precision: what the options name, resolved.
        calibration: the rates that times are predicted with.
        generated, real: random inputs, and the real ones if there are any.
        limit: the largest error of an output, None where it has none.
        measurer: what times kernels, None where the cost model is trusted.
        log: the times so far; where there is a measurer.
        announce: is told of every step.
        seen: from a layer to what it sees in samples, where these are of other sizes than the graph; None of others.

    """

    options: ProgramOptions
    target: Target
    precision: str
    calibration: Calibration
    generated: Sequence[Feeds]
    real: Sequence[Feeds] = ()
    limit: float | None = None
    measurer: Measurer | None = None
    log: TuningLog | None = None
    announce: Announce = silent
    seen: Callable[[ir.Node], LayerSamples | None] | None = None

    @property
    def threads(self) -> int:
        """The threads that one inference may use."""
        return self.options.threads
