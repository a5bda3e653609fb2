"""Names of layers that fit a column: what all share goes, what tells them apart stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

Names = list[str]


def shortened(names: Sequence[str], room: int) -> Names:
    """The names in at most `room` characters each, as they are if they fit; different ones stay different if they can.

    The folder that all lie in is dropped first, then components that the next one repeats ("body/body.0"), then the
    last component where all end in it; what is still too long loses its middle, so that a layer's number, at the
    beginning, and its part, at the end, both stay.
    """
    found = list(names)
    for shorten in (_without_folder, _without_repeats, _without_ending):
        if _fits(found, room):
            return found
        shorter = shorten(found)
        if len(set(shorter)) == len(set(found)) and all(shorter):
            found = shorter
    return found if _fits(found, room) else _elided(found, room)


def _fits(names: Names, room: int) -> bool:
    return max(map(len, names), default=0) <= room


def _without_folder(names: Names) -> Names:
    folders = [name.split("/")[:-1] for name in names]
    common = len(os.path.commonprefix(folders))  # noqa: RUF071 - of components, not of characters
    return ["/".join(name.split("/")[common:]) for name in names]


def _without_repeats(names: Names) -> Names:
    def kept(parts: list[str]) -> list[str]:
        return [part for part, after in zip(parts, [*parts[1:], ""], strict=True)
                if not (after == part or after.startswith(f"{part}."))]

    return ["/".join(kept(name.split("/"))) for name in names]


def _without_ending(names: Names) -> Names:
    endings = {name.rpartition("/")[2] for name in names}
    return [name.rpartition("/")[0] for name in names] if len(endings) == 1 else names


def _elided(names: Names, room: int) -> Names:
    """Names without their middle, cut where most stay different."""
    def cut(head: int) -> Callable[[str], str]:
        tail = room - 1 - head
        return lambda name: name if len(name) <= room else f"{name[:head]}…{name[len(name) - tail:]}"

    heads = sorted(range(room), key=lambda head: abs(head - room // 2))
    best = max(heads, key=lambda head: len(set(map(cut(head), names))))  # the first of equals: nearest to the middle
    return list(map(cut(best), names))
