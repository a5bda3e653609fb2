"""Words from tokens and back, by the `tokenizers` library and the `tokenizer.json` beside a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsec.errors import ToolchainError, UsageError

FILE = "tokenizer.json"


class Text:
    """A tokenizer.

    Args:
        folder: where `tokenizer.json` lies.

    Raises:
        UsageError: there is none, or it cannot be read.
        ToolchainError: the package is not installed.

    """

    def __init__(self, folder: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ToolchainError("the package tokenizers is missing; pip install 'sparsec[text]', or give tokens as "
                                 "numbers") from error
        path = folder / FILE
        if not path.is_file():
            raise UsageError(f"there is no {path}; give the folder of one with --tokenizer, or tokens as numbers")
        self._path = path
        self._tokenizer: Any = self._asked(Tokenizer.from_file, str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, those that models expect at its beginning included.

        Raises:
            UsageError: the file contradicts itself.

        """
        ids: list[int] = self._asked(self._tokenizer.encode, text).ids
        return ids

    def words(self, tokens: list[int]) -> str:
        """The text of tokens; raises as `tokens`."""
        text: str = self._asked(self._tokenizer.decode, tokens)
        return text

    def _asked(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the library answers, whose errors have no common base below BaseException."""
        try:
            return function(*arguments)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise UsageError(f"{self._path}: not a tokenizer ({error}); copy it again") from error
