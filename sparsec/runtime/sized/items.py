"""What the tapes of `flow` are made of: functions of the values by name that differ from call to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Item = Callable[[dict[str | None, Any]], object]


class Unplanned(Exception):  # noqa: N818 - the steps run one by one
    """A call cannot be repeated: it has no rows, or its sizes follow from values."""


def moved(source: np.ndarray, target: np.ndarray, behind: np.ndarray) -> Item:
    """Copies bytes, and writes zeros behind them."""
    def move(_values: dict[str | None, Any]) -> None:
        target[...] = source
        behind[...] = 0

    return move


def copied(source: np.ndarray | None, name: str, target: np.ndarray, behind: np.ndarray) -> Item:
    """Copies an array, or the value of a name, and writes zeros behind it."""
    padded, shape = behind.nbytes > 0, target.shape

    def copy(values: dict[str | None, Any]) -> None:
        found = values[name] if source is None else source
        if np.shape(found) != shape:
            raise Unplanned
        target[...] = found
        if padded:
            behind[...] = 0

    return copy


def step_of(run: Callable[..., Any], inputs: Sequence[tuple[str | None, Any]], outputs: Sequence[str]) -> Item:
    """Runs a step on what is always the same, and on values by name where that is None."""
    def step(values: dict[str | None, Any]) -> None:
        found = run([values.get(name) if array is None else array for name, array in inputs])
        values.update(zip(outputs, found))  # noqa: B905 - some are absent

    return step


def copying(run: Callable[..., Any]) -> Callable[..., Any]:
    """A step whose results have memory of their own."""
    return lambda arrays: [np.array(each) for each in run(arrays)]


def in_a_row(inputs: Sequence[str], nodes: Sequence[tuple[Callable[..., Any], Sequence[str | None], Sequence[str]]],
             ) -> Callable[..., Any]:
    """Steps (what runs it, inputs, outputs) as one, which gives the last one's results for arrays by name."""
    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        values: dict[str | None, Any] = {None: None, "": None, **dict(zip(inputs, arrays, strict=True))}
        for each, read, made in nodes:
            values.update(zip(made, each([values[name] for name in read]), strict=True))
        return [values[name] for name in nodes[-1][2]]

    return run
