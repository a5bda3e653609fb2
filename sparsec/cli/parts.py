"""Independent parts of a command: here, one after the other, or at once on the machines of a Ray cluster.

A finished part's result is kept in a folder, where one is given, and the same command goes on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsec import files
from sparsec.errors import UsageError
from sparsec.machine.optional import needed

LOCAL, CLUSTER = "local", "ray://"

On = Annotated[str, typer.Option(
    "--on", metavar="local|ray://HOST:PORT", help="Where independent parts run: here, or on the machines of a Ray "
    "cluster that have sparsec, too.")]
Resume = Annotated[Path | None, typer.Option(
    "--resume", file_okay=False, help="A folder that keeps finished parts; the same command goes on from there.")]


@dataclass(frozen=True)
class Part:
    """One of the parts.

    Attributes:
        arguments: of the function, as JSON has them.
        machine: the cluster's name of the machine that must run it; any if None.

    """

    arguments: tuple[Any, ...]
    machine: str | None = None


def check(on: str) -> None:
    """Raise UsageError where `on` names no place, and ToolchainError where it needs Ray, which is not installed."""
    if on != LOCAL and not on.startswith(CLUSTER):
        raise UsageError(f"--on {on}: give {LOCAL}, or the address of a Ray cluster, {CLUSTER}HOST:PORT")
    if on != LOCAL:
        needed("ray", "ray[serve]", "--on a cluster")


def machines(on: str) -> dict[str, str]:
    """The addresses of a cluster's machines by their names there."""
    ray = needed("ray", "ray[serve]", "--on a cluster")
    ray.init(address=on, ignore_reinit_error=True, log_to_driver=False)
    return {each["NodeID"]: each["NodeManagerAddress"] for each in ray.nodes() if each["Alive"]}


def run(function: Callable[..., Any], parts: Sequence[Part], on: str = LOCAL, folder: Path | None = None,
        cores: int = 1) -> Iterator[tuple[int, Any]]:
    """The numbers of the parts and their results, in the order in which they are done.

    Args:
        function: of a module, so that other machines find it; its result is JSON.
        parts: its calls.
        on: as `--on`.
        folder: where results are kept, made if it does not exist; nowhere if None.
        cores: that a call keeps busy.

    Raises:
        UsageError: a kept result is damaged.

    """
    kept = [None if folder is None else _path(folder, function, part) for part in parts]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    todo = []
    for number, path in enumerate(kept):
        if path is not None and path.exists():
            yield number, _read(path)
        else:
            todo.append(number)
    calls = _here(function, parts, todo) if on == LOCAL else _there(function, parts, todo, on, cores)
    for number, result in calls:
        if (path := kept[number]) is not None:
            files.write(path, json.dumps(result).encode())
        yield number, result


def _here(function: Callable[..., Any], parts: Sequence[Part], todo: Sequence[int]) -> Iterator[tuple[int, Any]]:
    for number in todo:
        yield number, function(*parts[number].arguments)


def _there(function: Callable[..., Any], parts: Sequence[Part], todo: Sequence[int], on: str, cores: int,
           ) -> Iterator[tuple[int, Any]]:
    """By tasks, which Ray repeats where a machine is lost."""
    ray = needed("ray", "ray[serve]", "--on a cluster")
    strategies = needed("ray.util.scheduling_strategies", "ray[serve]", "--on a cluster")
    ray.init(address=on, ignore_reinit_error=True, log_to_driver=False)
    task = ray.remote(num_cpus=cores)(function)
    running = {}
    for number in todo:
        machine = parts[number].machine
        place = "DEFAULT" if machine is None else strategies.NodeAffinitySchedulingStrategy(machine, soft=False)
        running[task.options(scheduling_strategy=place).remote(*parts[number].arguments)] = number
    while running:
        done, _ = ray.wait(list(running))
        for each in done:
            yield running.pop(each), ray.get(each)


def _path(folder: Path, function: Callable[..., Any], part: Part) -> Path:
    """Where a part's result is kept: named by all that it follows from."""
    text = json.dumps([function.__module__, function.__qualname__, part.arguments, part.machine])
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> Any:
    try:
        return json.loads(files.read_regular(path))
    except ValueError as error:
        raise UsageError(f"{path}: damaged ({error}); delete it") from error
