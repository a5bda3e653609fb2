"""How many processors this process may keep busy: by its affinity, and by the quota of its control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def available(root: Path = ROOT) -> int:
    """The whole processors that a scheduler lets this process use; 1 if its quota is less than one.

    A container's limit, such as Docker's `--cpus`, is a quota: threads beyond it are stopped for the rest of each
    period. Source: Linux, Documentation/admin-guide/cgroup-v2.rst (`cpu.max`), scheduler/sched-bwc.rst (version 1).
    """
    quotas = [quota for folder in _folders(root) for quota in _quotas(folder)]
    return max(1, min(len(os.sched_getaffinity(0)), *map(int, quotas), 1 << 16))


def cores(root: Path = ROOT) -> int:
    """The cores of the processors that a scheduler lets this process use: two threads of one core count once.

    Source: Linux, Documentation/admin-guide/cputopology.rst.
    """
    folder = root / "sys/devices/system/cpu"
    return len({_siblings(folder / f"cpu{each}", each) for each in os.sched_getaffinity(0)})


def _siblings(folder: Path, processor: int) -> str:
    """The processors of one core, as the kernel lists them; the one itself where the kernel tells nothing."""
    try:
        return (folder / "topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)


def shortage(threads: int) -> str:
    """What distinguishes times of so many threads that were measured on fewer processors: "" where none is missing."""
    count = available()
    return f", on {count} core(s)" if count < threads else ""


def _folders(root: Path) -> Iterator[Path]:
    """The folders of the control groups that the process is in, up to the hierarchy's root."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            for folder in (Path(path), *Path(path).parents):
                yield top / str(folder).lstrip("/")


def _quotas(folder: Path) -> Iterator[float]:
    """The processors that a control group is allowed, if it is limited: in version 2's file or in version 1's two."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if quota.isdecimal() and int(period) > 0:
            yield int(quota) / int(period)
