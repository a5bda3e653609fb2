"""Which steps a call takes, where branches of an If are chosen by values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def is_taken(when: Iterable[tuple[str, bool]], values: Mapping[str | None, Any]) -> bool:
    """Whether all conditions have their value; that of an If in a branch that is not taken has none."""
    return all(name in values and bool(values[name].all()) is chosen for name, chosen in when)
