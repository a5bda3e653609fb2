"""One product on the accelerator as a trace in Chrome's format, for Perfetto: a track for the broadcast and each PE."""

from __future__ import annotations

from typing import Any

from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.events import Run


def chrome_trace(runs: list[Run], arch: Architecture, name: str) -> dict[str, Any]:
    """The trace of a layer's segments, one after the other; times are microseconds."""
    events: list[dict[str, Any]] = [_meta("process_name", 0, f"EIE: {name}"), _meta("thread_name", 0, "broadcast")]
    events += [_meta("thread_name", pe + 1, f"PE {pe}") for pe in range(arch.pes)]
    start = 0
    for run in runs:
        events += [_span(arch, f"column {column}", 0, start + cycle, 1) for cycle, column in run.broadcasts]
        events += [_span(arch, "queue full", 0, start + cycle, 1) for cycle in run.stalls]
        events += [_span(arch, f"column {each.column}", each.pe + 1, start + each.start, each.cycles)
                   for each in run.columns]
        start += run.activity.cycles
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _meta(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 0, "tid": thread, "args": {"name": name}}


def _span(arch: Architecture, name: str, thread: int, cycle: int, cycles: int) -> dict[str, Any]:
    return {"name": name, "ph": "X", "pid": 0, "tid": thread, "ts": arch.microseconds(cycle),
            "dur": arch.microseconds(cycles)}
