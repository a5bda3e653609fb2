"""Criteria by name: which weights of a layer go, and what becomes of the others. A file each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsec.oneshot.criteria.magnitude import magnitude
from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.criteria.obs import obs
from sparsec.oneshot.criteria.ria import ria
from sparsec.oneshot.criteria.taylor import taylor
from sparsec.oneshot.criteria.wanda import wanda
from sparsec.oneshot.criteria.woodfisher import woodfisher
from sparsec.oneshot.patterns.pattern import Pattern

Criterion = Callable[[np.ndarray, Moments, Pattern, float], np.ndarray]
"""From the weight (outputs, inputs), the moments of its inputs, a pattern and a sparsity to the pruned weight."""

CRITERIA: dict[str, Criterion] = {"magnitude": magnitude, "wanda": wanda, "ria": ria, "obs": obs, "taylor": taylor,
                                  "woodfisher": woodfisher}
MOVING = ("obs", "woodfisher")
"""Those that move the weights that stay; they may be given others than the dense ones to start from."""
GRADED = ("taylor", "woodfisher")
"""Those that take gradients of the network's outputs."""
