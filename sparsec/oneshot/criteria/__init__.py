"""Criteria by name: which weights of a layer go, and what becomes of the others. A file each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsec.oneshot.criteria.magnitude import magnitude
from sparsec.oneshot.criteria.obs import obs
from sparsec.oneshot.criteria.wanda import wanda
from sparsec.oneshot.patterns.pattern import Pattern

Criterion = Callable[[np.ndarray, np.ndarray, Pattern, float], np.ndarray]
"""From the weight (outputs, inputs), the mean of x x^T of its inputs, a pattern and a sparsity to the pruned weight."""

CRITERIA: dict[str, Criterion] = {"magnitude": magnitude, "wanda": wanda, "obs": obs}
