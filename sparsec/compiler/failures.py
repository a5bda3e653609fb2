"""What TVM or the memory cannot do with a model, as errors of sparsec's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sparsec.errors import ModelError, UnsupportedOperatorError

P = ParamSpec("P")
T = TypeVar("T")


def named(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose failures within TVM, and for lack of memory, are refusals of the model.

    Raises:
        UnsupportedOperatorError: TVM has refused what the model became.
        ModelError: there is not enough memory.

    """
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except MemoryError as error:
            raise ModelError(f"compiling the model takes more memory than there is ({error})") from error
        except RuntimeError as error:  # the base of TVM's errors
            *_, last = str(error).strip().splitlines() or [type(error).__name__]
            raise UnsupportedOperatorError(f"TVM cannot compile this model: {last.strip()}; please report it with the "
                                           "model") from error

    return call
