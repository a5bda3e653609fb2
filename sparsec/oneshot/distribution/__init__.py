"""How a sparsity is shared among layers, by name: a file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsec.oneshot.distribution.asked import Asked
from sparsec.oneshot.distribution.erk import erk
from sparsec.oneshot.distribution.global_magnitude import global_magnitude
from sparsec.oneshot.distribution.lamp import lamp
from sparsec.oneshot.distribution.uniform import uniform

DISTRIBUTIONS: dict[str, Callable[[Sequence[Asked], float], list[float]]] = {
    "uniform": uniform, "erk": erk, "global": global_magnitude, "lamp": lamp}
"""From the weights and the sparsity of all together to the sparsity of each."""
