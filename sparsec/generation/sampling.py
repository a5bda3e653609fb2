"""How the next token is chosen from a decoder's scores, as transformers' `generate` defines it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsec import files
from sparsec.errors import UsageError

CONFIG = "generation_config.json"
"""The file beside a model that says how its makers generate with it."""
LARGEST = 1 << 20
"""Bytes of that file."""
LARGEST_NUMBER = 1 << 63


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: tokens after the prompt, at most.
        temperature: what scores are divided by before a token is drawn; 0 takes the highest score.
        top_k: only so many tokens of the highest scores, and equals of the last, are drawn from; 0 for all.
        top_p: only the fewest tokens that together have this probability are drawn from.
        repetition_penalty: what scores of tokens that have occurred are divided by, or multiplied where negative
            (Keskar et al. 2019, section 4.1); 1 for none.
        stop: tokens that end a text; they are its last.
        seed: of what is drawn.

    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, needed in (
                ("max_new_tokens", self.max_new_tokens >= 1, "a number from 1 on"),
                ("temperature", self.temperature >= 0, "a number from 0 on"),
                ("top_k", self.top_k >= 0, "a number from 0 on"),
                ("top_p", 0 < self.top_p <= 1, "a share above 0, up to 1"),
                ("repetition_penalty", self.repetition_penalty > 0, "a number above 0"),
                ("seed", self.seed >= 0, "a number from 0 on")):
            if not fits:
                raise UsageError(f"{name}={getattr(self, name)}; give {needed}")

    @property
    def remembers(self) -> bool:
        """Whether the tokens that a text has already matter."""
        return self.repetition_penalty != 1

    def choose(self, scores: np.ndarray, seen: np.ndarray, rng: np.random.Generator) -> int:
        """The next token for scores (tokens,) after the tokens that were seen, each once."""
        if self.temperature == 0:
            return int(self._penalized(scores, seen).argmax())
        tokens, shares = self.shares(scores, seen)
        return int(rng.choice(tokens, p=shares))

    def shares(self, scores: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that may be drawn, the likeliest first, and their probabilities."""
        scores = self._penalized(scores.astype(np.float64), seen) / self.temperature
        if 0 < self.top_k < scores.size:  # of equal scores all are kept
            candidates = np.flatnonzero(scores >= np.partition(scores, -self.top_k)[-self.top_k])
        else:
            candidates = np.arange(scores.size)
        order = candidates[np.argsort(-scores[candidates], kind="stable")]
        shares = np.exp(scores[order] - scores[order[0]])
        shares /= shares.sum()
        if self.top_p < 1:
            kept = int(np.searchsorted(np.cumsum(shares), self.top_p)) + 1
            order, shares = order[:kept], shares[:kept] / shares[:kept].sum()
        return order, shares

    def _penalized(self, scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
        if not self.remembers or not seen.size:
            return scores
        scores, own = scores.copy(), scores[seen]
        scores[seen] = np.where(own < 0, own * self.repetition_penalty, own / self.repetition_penalty)
        return scores


def read_config(folder: Path, **given: Any) -> Sampling:
    """What a model's `generation_config.json` says, where there is one, and what is given in its place.

    Raises:
        UsageError: the file is not JSON, or a value has another type.

    """
    path, found = folder / CONFIG, Sampling()
    if path.is_file():
        try:
            found = _sampling(json.loads(_text(path)))
        except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, UsageError) as error:
            raise UsageError(f"{path}: not a configuration of generation ({error}); correct or remove it") from error
    return replace(found, **{name: value for name, value in given.items() if value is not None})


def _text(path: Path) -> bytes:
    """What the file holds; raises ValueError where that is too much."""
    text = files.read_regular(path, LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"it has over {LARGEST} bytes")
    return text


def _sampling(config: dict[str, Any]) -> Sampling:
    """What a configuration says; raises TypeError where a value is of another type, UsageError where it fits none."""
    own: dict[str, Any] = {}
    for each in fields(Sampling):
        if (value := config.get(each.name)) is not None and each.name != "stop":
            own[each.name] = _number(each.name, value, whole=isinstance(each.default, int))
    if not config.get("do_sample", False):
        own["temperature"] = 0.0
    end = config.get("eos_token_id")
    tokens = end if isinstance(end, list) else [] if end is None else [end]
    own["stop"] = tuple(_number("eos_token_id", token, whole=True) for token in tokens)
    return Sampling(**own)


def _number(name: str, value: Any, *, whole: bool) -> Any:
    """A finite number, where it is one and fits 64 bits."""
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not abs(value) < LARGEST_NUMBER:
        raise TypeError(f"{name} is {str(value)[:40]}")
    return value
