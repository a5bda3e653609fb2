"""The backends of the simulated accelerators, as the compiler asks them: EIE's own, and that of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from sparsec.backends.base import Backend, Built, Execute
from sparsec.backends.job import Feeds, Job

if TYPE_CHECKING:  # see `backends.base`
    import onnx_ir as ir


class Compiler(Protocol):
    """The module that compiles for accelerators of a kind and executes what it compiled."""

    def build(self, graph: ir.Model, feeds: Feeds, name: str, /) -> Built:
        """Compile a planned graph for the accelerator of a name; inputs decide the simulated times."""

    def execute(self, constants: Sequence[np.ndarray], /) -> Execute:
        """What executes an artifact's constants."""


class AcceleratorBackend(Backend):
    """Weights as an accelerator's memories hold them, and times that are simulated."""

    kind = "accelerator"
    precisions: ClassVar[Mapping[str, float]] = {"fp32": 0.0}
    limited = False

    def build(self, graph: ir.Model, job: Job) -> Built:
        """The network's stored weights; inputs decide the simulated times, and EIE's fixed-point formats."""
        job.announce("build")
        return self._compiler().build(graph, (*job.generated, *job.real)[-1], job.target.name)

    def execute(self, constants: Sequence[np.ndarray]) -> Execute | None:
        """In the accelerator's integers, from its stored weights."""
        return self._compiler().execute(constants)

    def _compiler(self) -> Compiler:
        from sparsec.backends.accelerators import build

        return build


class EieBackend(AcceleratorBackend):
    """The same for EIE, whose entries, pointers and codebooks are its own."""

    kind = "eie"

    def _compiler(self) -> Compiler:
        from sparsec.backends.accelerators.eie import build

        return build
