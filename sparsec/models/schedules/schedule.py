"""What the registry says of a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparsec.models.masks import Masks
from sparsec.models.schedules.task import Task


@dataclass(frozen=True)
class Schedule:
    """When to prune and when to train, and what goes with it.

    Attributes:
        run: does it; the model keeps the weights inside the masks that it returns.
        effective: whether it can meet an effective sparsity.
        single: whether it decides on single weights and knows no other pattern.
        pretrained: whether it starts from trained weights where the criterion is one of them.
        criterion: its usual criterion.
        quota: its usual layer-wise quota; None leaves it to the criterion.
        pattern: its usual pattern; None leaves it to the criterion.
        final: whether the weights that it ends with are its point, so that training anew under its masks is another
            method.
        zeros: whether the weights outside the masks are zero, as all but frozen ones are.
        seeded: whether random weights stay, so that a network that is made for it has such as a seed can store.

    """

    run: Callable[[Task], Masks]
    effective: bool = True
    single: bool = False
    pretrained: bool = False
    criterion: str = "magnitude"
    quota: str | None = None
    pattern: str | None = None
    final: bool = False
    zeros: bool = True
    seeded: bool = False
