"""`sparsec.generate`: texts from prompts, token by token."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.errors import UsageError
from sparsec.generation.decoder import Decoder, takes_padding
from sparsec.generation.sampling import Sampling
from sparsec.runtime.session import InferenceSession

Prompt = Sequence[int]
OnToken = Callable[[int, int], None]
"""Is told of every token as it comes: the number of the prompt, and the token."""


@dataclass(frozen=True)
class Generation:
    """What was generated.

    Attributes:
        tokens: by prompt, what follows it.
        first_s: seconds until the first token of the first batch.
        tokens_per_s: of all prompts together, after the first of each batch; 0 where there was but one.

    """

    tokens: list[list[int]]
    first_s: float
    tokens_per_s: float


def generate(session: InferenceSession, prompts: Prompt | Sequence[Prompt], sampling: Sampling | None = None, *,
             on_token: OnToken | None = None) -> Generation:
    """Continue prompts, which are tokens, or one prompt.

    Prompts of different lengths are one batch where the model takes `attention_mask` and `position_ids`, else those of
    each length are one.

    Args:
        session: of a decoder with caches; see `generation.decoder.Decoder`.
        prompts: tokens of each text, or of one.
        sampling: how tokens are chosen; the highest scores if not given.
        on_token: is told of tokens as they come.

    Raises:
        UsageError: the model is no decoder, or a prompt is empty.
        InputError: a token is none of the model's, or a text outgrows what it was compiled for.

    """
    sampling = sampling or Sampling()
    texts = _texts(prompts)
    if not all(texts):
        raise UsageError("a prompt is empty; give every text at least one token, such as that of its beginning")
    batches: dict[int, list[int]] = defaultdict(list)
    whole = takes_padding(session)
    for number, text in enumerate(texts):
        batches[0 if whole else len(text)].append(number)
    runs = [_Batch(session, [texts[number] for number in numbers], numbers, sampling, on_token)
            for numbers in batches.values()]
    found: dict[int, list[int]] = {}
    for run in runs:
        found.update(zip(run.numbers, run.all(), strict=True))
    later = sum(run.later_s for run in runs)
    count = sum(len(tokens) - 1 for tokens in found.values())
    return Generation([found[number] for number in range(len(texts))], runs[0].first_s, count / later if later else 0.0)


def _texts(prompts: Prompt | Sequence[Prompt]) -> list[list[int]]:
    """The tokens of every prompt."""
    found: list[list[int]] = []
    for prompt in prompts:
        if isinstance(prompt, int | np.integer):
            found = found or [[]]
            found[0].append(int(prompt))
        else:
            found.append([int(token) for token in prompt])
    return found or [[]]


class _Batch:
    """Texts that are continued together."""

    def __init__(self, session: InferenceSession, texts: Sequence[Prompt], numbers: Sequence[int], sampling: Sampling,
                 on_token: OnToken | None) -> None:
        longest = max(map(len, texts))
        pad = [longest - len(text) for text in texts]
        self.numbers, self.first_s, self.later_s = numbers, 0.0, 0.0
        self._texts, self._sampling, self._on_token = texts, sampling, on_token
        self._decoder = Decoder(session, pad, longest + sampling.max_new_tokens)
        self._start = np.array([[0] * missing + list(text) for missing, text in zip(pad, texts, strict=True)])
        self._random = [np.random.default_rng((sampling.seed, number)) for number in numbers]
        self._seen = [dict.fromkeys(text) for text in texts]

    def all(self) -> list[list[int]]:
        """What follows each text."""
        made: list[list[int]] = [[] for _ in self._texts]
        tokens, begin = self._start, time.perf_counter()
        for turn in range(self._sampling.max_new_tokens):
            scores = self._decoder.step(tokens)
            chosen = [self._next(row, scores[row], made[row]) for row in range(len(made))]
            if not turn:
                self.first_s, begin = time.perf_counter() - begin, time.perf_counter()
            if all(self._ended(own) for own in made):
                break
            tokens = np.array(chosen)[:, None]
        self.later_s = time.perf_counter() - begin
        return made

    def _ended(self, made: Sequence[int]) -> bool:
        return bool(made) and made[-1] in self._sampling.stop

    def _next(self, row: int, scores: np.ndarray, made: list[int]) -> int:
        """The next token of a text, which is its last again where it has ended."""
        if self._ended(made):
            return made[-1]
        seen = np.fromiter(self._seen[row] if self._sampling.remembers else (), np.int64)
        token = self._sampling.choose(scores, seen, self._random[row])
        made.append(token)
        self._seen[row][token] = None
        if self._on_token is not None:
            self._on_token(self.numbers[row], token)
        return token
