"""The backend of the simulated accelerators beside EIE, as the compiler asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sparsec.backends.base import Backend, Built, Execute
from sparsec.backends.job import Job

if TYPE_CHECKING:  # see `backends.base`
    import onnx_ir as ir


class AcceleratorBackend(Backend):
    """Weights as an accelerator's memories hold them, and times that are simulated."""

    kind = "accelerator"
    precisions: ClassVar[Mapping[str, float]] = {"fp32": 0.0}
    limited = False

    def build(self, graph: ir.Model, job: Job) -> Built:
        """The network's stored weights; inputs decide the simulated times."""
        from sparsec.backends.accelerators.build import build

        job.announce("build")
        return build(graph, (*job.generated, *job.real)[-1], job.target.name)

    def execute(self, constants: Sequence[np.ndarray]) -> Execute | None:
        """In the accelerator's integers, from its stored weights."""
        from sparsec.backends.accelerators.build import execute

        return execute(constants)
