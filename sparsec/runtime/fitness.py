"""Whether the machine at hand can execute an artifact."""

from __future__ import annotations

from sparsec.artifact.file import Artifact
from sparsec.backends.registry import backend_named


def check_machine(artifact: Artifact) -> None:
    """Check that this machine, its GPU included where one is needed, can execute an artifact.

    Raises:
        ArtifactError: it cannot; says what to do.

    """
    artifact.check_machine()
    backend = backend_named(artifact.manifest.target)
    for each in artifact.buckets:
        backend.check(each.manifest.needs)
