"""The step that takes one token of one text through all stages at once, see `compiler.sized.token`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsec.machine import tvm_runtime
from sparsec.machine.memory import aligned, carrier, element_type
from sparsec.runtime.sized.attention import FLOAT, by_rows, flat
from sparsec.runtime.sized.branches import is_taken
from sparsec.runtime.sized.growing import extended
from sparsec.runtime.sized.sizes import value_of

HALVES = ("keys", "values")


class Token:
    """The step; one call at a time.

    Args:
        function: with its constants bound.
        about: what the plan says of it.
        scratch: of the kernels of attention: what keys are padded to, rows of scores, and threads.

    """

    def __init__(self, function: Callable[..., Any], about: Mapping[str, Any], scratch: Mapping[str, int]) -> None:
        runtime = tvm_runtime.load()
        self._function, self._share, self._item = function, runtime.from_dlpack, runtime.get_item
        self._ones, self._when = about["ones"], about["when"]
        self._caches = [[(cache[half]["past"], cache[half]["present"], cache[half]["start"]) for half in HALVES]
                        for cache in about["caches"]]
        self._outputs = [(each["name"], element_type(each["dtype"]), each["shape"]) for each in about["outputs"]]
        self._pair, self._floats = scratch["pair"], scratch["threads"] * (about["depth"] + scratch["rows"])
        self._arguments: list[Any] = [None] * (len(about["inputs"]) + 1)
        places = {each["name"]: index for index, each in enumerate(about["inputs"])}
        self._sizes: list[np.ndarray] = []
        self._places: list[tuple[int, int]] = []
        for number in range(len(self._caches)):
            sizes = aligned((5,), np.dtype(np.int64))
            self._sizes.append(sizes)
            self._arguments[places.pop(f"sizes.{number}")] = self._share(sizes)
            self._places.append((places.pop(f"keys.{number}"), places.pop(f"values.{number}")))
        self._buffers: list[tuple[str, np.ndarray]] = []
        self._masks: list[tuple[str, int]] = []
        for name, place in places.items():
            each = about["inputs"][place]
            if each["shape"] is None:
                self._masks.append((name, place))
            else:
                buffer = aligned(tuple(each["shape"]), element_type(each["dtype"]))
                self._buffers.append((name, buffer.reshape(-1)))
                self._arguments[place] = self._share(buffer.view(carrier(each["dtype"])))
        self._room = 0
        self._made = frozenset({name for name, *_ in self._outputs} | {
            present for cache in self._caches for _, present, _ in cache if present is not None})

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is one token of one text that is asked for."""
        return all(value_of(terms, sizes) == 1 for terms in self._ones)

    def takes(self, values: Mapping[str | None, Any]) -> bool:
        """Whether the branch is taken that it computes, and caches are appended to where they end."""
        if not is_taken(self._when, values):
            return False
        return all(start is None or (values[start] == values[past].shape[2]).all()
                   for cache in self._caches for past, _, start in cache)

    def run(self, values: dict[str | None, Any], sizes: Mapping[str, int]) -> frozenset[str]:
        """Enter the outputs, and the caches with the token, into the values; their names."""
        arguments, keys = self._arguments, 0
        for halves, places, told in zip(self._caches, self._places, self._sizes, strict=True):
            strides: list[int] = []
            for (past, present, _), place in zip(halves, places, strict=True):
                array = values[past]
                if present is None:
                    array = by_rows(array)
                    arguments[place] = self._share(flat(array))
                else:
                    cache, array = extended(array, 1)
                    arguments[place], values[present] = cache.flat, array
                strides += [array.strides[1] // FLOAT, array.strides[2] // FLOAT]
            count = array.shape[2]
            told[:] = (count, *strides)
            keys = max(keys, count)
        for name, buffer in self._buffers:
            buffer[:] = values[name].reshape(-1)
        for name, place in self._masks:
            mask = np.ascontiguousarray(values[name]).reshape(-1)
            arguments[place] = self._share(mask if mask.flags.writeable else mask.copy())
        self._grow(-(-keys // self._pair) * self._pair * self._floats)
        results = self._function(*arguments)
        for index, (name, dtype, shape) in enumerate(self._outputs):
            found = np.from_dlpack(self._item(results, index))
            values[name] = found.view(dtype).reshape([value_of(terms, sizes) for terms in shape])
        return self._made

    def _grow(self, floats: int) -> None:
        if floats > self._room:
            self._room = 2 * floats
            self._arguments[-1] = self._share(aligned((self._room,), np.dtype(np.float32)))


def steps_before(about: Mapping[str, Any], steps: Sequence[Any]) -> list[Any]:
    """The steps whose results the function takes."""
    return [steps[number] for number in about["before"]]
