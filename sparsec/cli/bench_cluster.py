"""`sparsec bench --on ray://…`: the same command on every machine of a cluster, by which they compare."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from sparsec.cli import options, parts
from sparsec.cli.tables import console
from sparsec.errors import SparsecError, UsageError

OWN = ("on", "resume", "json", "plot")
"""Parameters of the command that starts the others."""


def bench_elsewhere(context: typer.Context, on: str, folder: Path | None, cores: int, into: Path | None) -> bool:
    """Print what every machine of a cluster measures, and write it by machine; False where no cluster is asked for.

    Args:
        context: of the command, whose files lie at the same paths on every machine.
        on: as `--on`.
        folder: where finished machines are kept.
        cores: that a machine keeps busy.
        into: the file of the figures.

    Raises:
        UsageError: `on` names no place, or what is measured here is to be kept.
        SparsecError: the command fails on a machine, which is named.

    """
    parts.check(on)
    if on == parts.LOCAL:
        if folder is not None:
            raise UsageError("--resume is for --on ray://HOST:PORT, whose finished machines it keeps")
        return False
    machines = parts.machines(on)
    calls = [parts.Part((words(context),), name) for name in machines]
    figures = {}
    for number, result in parts.run(timed, calls, on, folder, cores):
        machine = f"{machines[calls[number].machine or '']} ({(calls[number].machine or '')[:8]})"
        if result["error"]:
            raise SparsecError(f"{machine}: {result['error']}")
        console.print(f"\n{machine}\n{result['text']}", highlight=False, markup=False)
        figures[machine] = result["figures"]
    options.write_json(into, figures)
    return True


def words(context: typer.Context) -> list[str]:
    """The arguments of a command as they are written, without those of `OWN` and those that are not given."""
    found: list[str] = []
    for each in context.command.params:
        value = context.params.get(each.name or "")
        if each.name in OWN or value in (None, False, []) or value == each.default:
            continue
        name = [] if each.param_type_name == "argument" else [each.opts[0]]
        for item in [None] if value is True else value if isinstance(value, list | tuple) else [value]:
            found += name if item is None else [*name, str(item.value if isinstance(item, Enum) else item)]
    return found


def timed(arguments: Sequence[str]) -> dict[str, Any]:
    """What `sparsec bench` prints and measures on the machine that this runs on, or why it fails."""
    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        into = Path(directory) / "figures.json"
        command = [sys.executable, "-m", "sparsec", "bench", *arguments, "--json", str(into)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this program
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
            return {"error": lines[-1].removeprefix("sparsec: error: ")}
        return {"error": "", "text": done.stdout.rstrip(), "figures": json.loads(into.read_text())}
