"""Sizes that the run tells: polynomials with integer coefficients in the symbols of a model's inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

Terms = tuple[tuple[tuple[str, ...], int], ...]
"""Every monomial, the sorted names of its factors, with its coefficient, which is not 0; sorted."""

OPAQUE = "?"
"""What the names of sizes begin with that nothing known follows from; no symbol of a model is taken for one."""

_NAME = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Size:
    """A size, or another integer that follows from sizes, in normal form: equal polynomials are equal objects."""

    terms: Terms

    @classmethod
    def of(cls, value: int | str) -> Self:
        """A number, or a symbol."""
        if isinstance(value, str):
            return cls((((value,), 1),))
        return cls((((), value),) if value else ())

    @property
    def number(self) -> int | None:
        """The number that it is, None where it depends on symbols."""
        if not self.terms:
            return 0
        return self.terms[0][1] if self.terms[0][0] == () and len(self.terms) == 1 else None

    @property
    def symbols(self) -> set[str]:
        """The names that it depends on."""
        return {name for names, _ in self.terms for name in names}

    @property
    def known(self) -> bool:
        """Whether it follows from the sizes of the inputs."""
        return not any(name.startswith(OPAQUE) for name in self.symbols)

    def __add__(self, other: Size) -> Size:
        """The sum."""
        return _collected((*self.terms, *other.terms))

    def __sub__(self, other: Size) -> Size:
        """The difference."""
        return self + other * Size.of(-1)

    def __mul__(self, other: Size) -> Size:
        """The product."""
        return _collected((tuple(sorted((*left, *right))), a * b)
                          for left, a in self.terms for right, b in other.terms)

    def divided(self, by: Size) -> Size | None:
        """The quotient where it is a polynomial without remainder, else None."""
        if self == by and self.terms:
            return Size.of(1)
        if len(by.terms) != 1:
            return None
        (names, factor), quotient = by.terms[0], []
        for own, coefficient in self.terms:
            rest = list(own)
            if coefficient % factor or any(own.count(name) < names.count(name) for name in names):
                return None
            for name in names:
                rest.remove(name)
            quotient.append((tuple(rest), coefficient // factor))
        return _collected(quotient)

    def value(self, sizes: Mapping[str, int]) -> int:
        """Its number for sizes by symbol."""
        total = 0
        for names, coefficient in self.terms:
            product = coefficient
            for name in names:
                product *= sizes[name]
            total += product
        return total

    def __str__(self) -> str:
        """As in "2*batch*heads + past + 1"."""
        return " + ".join("*".join([*([str(factor)] if factor != 1 or not names else []), *names])
                          for names, factor in reversed(self.terms)) or "0"


def _collected(terms: Iterable[tuple[tuple[str, ...], int]]) -> Size:
    """The sum of terms in normal form."""
    sums: dict[tuple[str, ...], int] = {}
    for names, factor in terms:
        sums[names] = sums.get(names, 0) + factor
    return Size(tuple(sorted((names, factor) for names, factor in sums.items() if factor)))


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; 1 of none."""
    total = Size.of(1)
    for size in sizes:
        total *= size
    return total


def declared(name: str, symbols: set[str]) -> Size:
    """What the name of an input's dimension says: the sum of other symbols and numbers, or a symbol of its own."""
    parts = [part.strip() for part in name.split("+")]
    if len(parts) > 1 and all(part in symbols or part.isdecimal() for part in parts):
        total = Size.of(0)
        for part in parts:
            total += Size.of(int(part)) if part.isdecimal() else Size.of(part)
        return total
    return Size.of(name)


def is_name(text: str) -> bool:
    """Whether a text is one name, and not an expression."""
    return bool(_NAME.fullmatch(text))
