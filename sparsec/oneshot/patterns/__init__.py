"""Patterns of zeros by name: a file each."""

from __future__ import annotations

import re
from collections.abc import Callable

from sparsec.errors import UsageError, meant
from sparsec.oneshot.patterns.balanced import Balanced
from sparsec.oneshot.patterns.blocks import Blocks
from sparsec.oneshot.patterns.nm import NM
from sparsec.oneshot.patterns.pattern import Pattern
from sparsec.oneshot.patterns.unstructured import Unstructured

PATTERNS: dict[str, Callable[[int, int], Pattern]] = {
    r"unstructured": lambda _first, _second: Unstructured(),
    r"balanced": lambda _first, _second: Balanced(),
    r"([1-9]\d*):([1-9]\d*)": NM,
    r"([1-9]\d*)x([1-9]\d*)": Blocks,
}
"""By the form of their names; the numbers in a name are the pattern's."""


NAMED = ("unstructured", "balanced", "units", "unused", "branches")
"""Those without numbers in their names, with those that `--pattern` takes for whole units."""


def pattern(name: str) -> Pattern:
    """The pattern of a name. Raises UsageError where there is none."""
    for form, make in PATTERNS.items():
        if found := re.fullmatch(form, name):
            first, second = (int(each) for each in (*found.groups(), 0, 0)[:2])
            if ":" in name and first >= second:
                break
            return make(first, second)
    raise UsageError(f"pattern '{name}': {meant(name, NAMED)}give unstructured, balanced, RxC such as 4x1, or "
                     "N:M such as 2:4 with N below M")
