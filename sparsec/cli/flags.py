"""Flags by a table, for commands whose options are the fields of a dataclass: nothing is listed twice."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from typer import BadParameter
from typer.core import TyperCommand

from sparsec.errors import meant


class Panelled(TyperCommand):
    """A command whose help lists the options of every `rich_help_panel` under a heading of its own, the rest last.

    A value that is none of an option's choices is refused with the nearest of them.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left of those given; a refused choice is told what may have been meant."""
        try:
            return super().parse_args(ctx, args)
        except BadParameter as error:
            if found := re.search(r"'([^']*)' is not one of (.*)\.", error.message):
                near = meant(found[1], re.findall("'([^']*)'", found[2])).strip()
                error.message += f" {near[:1].upper()}{near[1:]}" if near else ""
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and the options by panel."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        rest: list[tuple[str, str]] = []
        for each in self.get_params(ctx):
            if (record := each.get_help_record(ctx)) is None:
                continue
            panel = getattr(each, "rich_help_panel", None)
            (sections["Arguments"] if each.param_type_name == "argument" else
             rest if panel is None else sections.setdefault(panel, [])).append(record)
        for heading, records in {**sections, "Options": rest}.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def sizes_as_typed(message: str, has_dim: bool = True) -> str:
    """A message of the Python interface with sizes as the command line has them: "--dim batch=1 or --shape x:1,3".

    Without `has_dim`, for a command that takes no `--dim`, advice is of `--shape` alone.
    """
    if not has_dim:
        message = re.sub(r"\bdims=\{[^{}]*\} or (?=shapes=)", "", message).replace("dims or shapes", "--shape")

    def typed(found: re.Match[str]) -> str:
        try:
            sizes = ast.literal_eval(found["sizes"])
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # a name of the model that reads like code
            return found[0]
        texts = ([f"{name}={size}" for name, size in sizes.items()] if found["option"] == "dims" else
                 [f"{name}:{','.join(map(str, shape))}" for name, shape in sizes.items()])
        return " ".join(f"--{found['option'].removesuffix('s')} {shlex.quote(text)}" for text in texts)

    return re.sub(r"\b(?P<option>dims|shapes)=(?P<sizes>\{[^{}]*\})", typed, message).replace(
        "dims or shapes", "--dim or --shape")


def _as_given(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Flag:
    """A flag that gives an option.

    Attributes:
        kind: its type, `Annotated` with what typer is to know.
        default: what the command line takes where it is not given.
        read: from the flag's value to the option's.

    """

    kind: Any
    default: Any = None
    read: Callable[[Any], Any] = _as_given


def taking(flags: Mapping[str, Flag]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: what a command calls `**given` are these flags, by the names of the options."""
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**given: Any) -> None:
            command(**{name: flags[name].read(value) if name in flags else value for name, value in given.items()})

        own = inspect.signature(command, eval_str=True).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        shown = [each.replace(kind=keyword) for each in own if each.kind is not inspect.Parameter.VAR_KEYWORD]
        shown += [inspect.Parameter(name, keyword, default=flag.default, annotation=flag.kind)
                  for name, flag in flags.items()]
        call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # typer reads it
        call.__annotations__ = {each.name: each.annotation for each in shown}
        return call

    return decorate


def described(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each attribute, as a sentence for help texts."""
    attributes = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", attributes, re.MULTILINE)
    texts = {name: " ".join(text.split()).replace("`", "") for name, text in entries}
    return {name: text[:1].upper() + text[1:] for name, text in texts.items()}
