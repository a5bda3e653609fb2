"""A session of a decoder with caches: which of its inputs are tokens, masks, positions and caches, and one step."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from sparsec.errors import InputError, UsageError
from sparsec.runtime.session import InferenceSession
from sparsec.runtime.signature import TensorInfo
from sparsec.runtime.sized.growing import reserved

TOKENS, MASK, POSITIONS, CACHED = "input_ids", "attention_mask", "position_ids", "use_cache_branch"


class Decoder:
    """A decoder in the midst of a batch of texts of equal length, padding in front included.

    Args:
        session: of a model with the input `input_ids` (batch, tokens), perhaps `attention_mask` (batch, past + tokens)
            and `position_ids` (batch, tokens), `use_cache_branch` (1) as Optimum's merged decoders have it, and caches
            (batch, …, past, …): inputs `past…` with outputs `present…` of the same ending, or in the same order.
        pad: by row, tokens of padding in front.
        room: tokens that caches have room for from the start, so that they are never copied.

    Raises:
        UsageError: the model has other inputs.

    """

    def __init__(self, session: InferenceSession, pad: Sequence[int], room: int = 0) -> None:
        check_decoder(session)
        inputs = {info.name: info for info in session.get_inputs()}
        self.takes_padding = takes_padding(session)
        self._session, self._inputs, self._pad = session, inputs, np.asarray(pad)
        caches = [name for name in inputs if name not in (TOKENS, MASK, POSITIONS, CACHED)]
        outputs = [info.name for info in session.get_outputs()]
        self._words = session.get_outputs()[0].shape[-1]
        self._outputs = [outputs[0], *_paired(caches, outputs[1:])]
        self._caches = {name: self._empty(inputs[name], len(pad), room) for name in caches}
        self.length = 0

    def _empty(self, info: TensorInfo, rows: int, room: int) -> np.ndarray:
        """A cache of nothing."""
        shape = [size if isinstance(size, int) else 0 if axis else rows for axis, size in enumerate(info.shape)]
        if 0 not in shape[1:]:
            raise UsageError(f"input '{info.name}' has the shape {info.shape}, and generation begins with nothing in "
                             "it; compile the model without sizes for its caches")
        return reserved(tuple(shape), info.dtype, room, shape.index(0, 1))

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """The scores (batch, tokens of the vocabulary) behind some tokens (batch, count), which enter the caches."""
        count, places = tokens.shape[1], np.arange(self.length, self.length + tokens.shape[1])
        feeds = {TOKENS: tokens.astype(self._inputs[TOKENS].dtype), **self._caches}
        if MASK in self._inputs:
            real = np.arange(self.length + count)[None] >= self._pad[:, None]
            feeds[MASK] = real.astype(self._inputs[MASK].dtype)
        if POSITIONS in self._inputs:
            positions = np.maximum(places[None] - self._pad[:, None], 0)
            feeds[POSITIONS] = positions.astype(self._inputs[POSITIONS].dtype)
        if CACHED in self._inputs:
            feeds[CACHED] = np.array([self.length > 0])
        try:
            scores, *caches = self._session.run(self._outputs, feeds)
        except InputError as error:
            if isinstance(self._words, int) and (other := tokens[(tokens < 0) | (tokens >= self._words)]).size:
                raise InputError(f"token {other[0]} is outside the model's vocabulary of {self._words}; give tokens of "
                                 f"0 to {self._words - 1}") from error
            raise
        self._caches = dict(zip(self._caches, caches, strict=True))
        self.length += count
        last: np.ndarray = scores[:, -1] if scores.ndim > 2 else scores
        return last


def check_decoder(session: InferenceSession) -> None:
    """Raises UsageError where a model takes no tokens."""
    names = [info.name for info in session.get_inputs()]
    if TOKENS not in names:
        raise UsageError(f"the model has no input '{TOKENS}'; it has {', '.join(map(repr, names))}, and generates no "
                         "text")


def takes_padding(session: InferenceSession) -> bool:
    """Whether texts of different lengths may be in one batch."""
    return {MASK, POSITIONS} <= {info.name for info in session.get_inputs()}


def _paired(caches: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """The output that every cache continues as: by the ending of its name, else in order."""
    endings = {re.sub(r"^[a-z_]+", "", name.removeprefix("present")): name for name in outputs}
    by_name = [endings.get(re.sub(r"^[a-z_]+", "", name)) for name in caches]
    if None not in by_name and len(set(by_name)) == len(caches):
        return [name for name in by_name if name is not None]
    if len(outputs) < len(caches):
        raise UsageError(f"the model has {len(caches)} caches and {len(outputs)} outputs to continue them as; export "
                         "it with an output for every cache")
    return list(outputs[:len(caches)])
