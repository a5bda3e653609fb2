"""The backends, by the kind of their targets."""

from __future__ import annotations

from sparsec.backends.accelerators.backend import AcceleratorBackend, EieBackend
from sparsec.backends.base import Backend
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cuda.backend import CudaBackend
from sparsec.errors import ArtifactError, UsageError
from sparsec.target import Target, kind_of

BACKENDS: dict[str, Backend] = {each.kind: each for each in (CpuBackend(), CudaBackend(), EieBackend(),
                                                         AcceleratorBackend())}
"""By the kind of target."""


def backend_of(target: Target) -> Backend:
    """The backend of a target.

    Raises:
        UsageError: there is none.

    """
    if target.kind not in BACKENDS:
        raise UsageError(f"nothing can be compiled for target '{target.name}'; its kind is {target.kind}, "
                         f"models compile for {', '.join(BACKENDS)}")
    return BACKENDS[target.kind]


def backend_named(target: str) -> Backend:
    """The backend that has compiled for a target of this name.

    Raises:
        ArtifactError: there is none.

    """
    kind = kind_of(target)
    if kind not in BACKENDS:
        raise ArtifactError(f"the artifact was compiled for '{target}', which this version of sparsec does not know; "
                            "compile the model again")
    return BACKENDS[kind]
