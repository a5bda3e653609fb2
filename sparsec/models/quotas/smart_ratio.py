"""Smart-Ratio (Su et al. 2020, section 4): later layers keep less."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsec.analysis.densities import shared


def smart_ratio(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Density in proportion to l^2 + l for the l-th layer from the end; what exceeds 1 is shared among the others.

    The paper's exception, a last linear layer of density 0.3, is left out: not every target would be possible.
    """
    from_end = range(len(shapes), 0, -1)
    return shared([math.prod(shape) for shape in shapes], [place**2 + place for place in from_end], sparsity)
