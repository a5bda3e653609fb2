"""The plan of an artifact for run-time sizes as `libsparsec` reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.errors import UsageError

Add = Callable[[bytes | memoryview], list[int]]
"""Places bytes; their offset and length."""
Place = Callable[[np.ndarray], dict[str, Any]]
"""Places an array; its entry."""


def sized_plan(artifact: Artifact, add: Add, place: Place) -> dict[str, Any]:
    """The plan.

    Raises:
        UsageError: a step takes Python; names it.

    """
    del artifact, add, place
    raise UsageError("the artifact takes sizes that only the run tells, which bundles do not; bind them with --dim or "
                     "--shape, such as --shape input:1/8/32,3,224,224")
