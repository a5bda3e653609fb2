"""The command line. A command is a function `command` in a module of its own, entered in `COMMANDS`."""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sparsec import files
from sparsec.cli import (
    accelerators,
    bench,
    bundle,
    calibrate,
    compile,  # noqa: A004 - modules are named after their commands
    explain,
    export,
    formats,
    generate,
    inspect,
    prune,
    quantize,
    run,
    serve,
    simulate,
    strip,
    study,
    targets,
    verify,
)
from sparsec.cli.flags import Panelled, sizes_as_typed
from sparsec.cli.inputs import keeping_inputs
from sparsec.errors import InputError, InternalError, ShapeError, SparsecError, UsageError, printable

COMMANDS: dict[str, Callable[..., None]] = {
    "compile": compile.command,
    "run": run.command,
    "generate": generate.command,
    "serve": serve.command,
    "bench": bench.command,
    "inspect": inspect.command,
    "explain": explain.command,
    "formats": formats.command,
    "strip": strip.command,
    "quantize": quantize.command,
    "simulate": simulate.command,
    "targets": targets.command,
    "accelerators": accelerators.command,
    "verify": verify.command,
    "bundle": bundle.command,
    "calibrate": calibrate.command,
    "prune": prune.command,
    "export": export.command,
    "study": study.command,
}

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Compile pruned ONNX models into the fastest programs that their sparsity allows.")
for _name, _command in COMMANDS.items():
    app.command(_name, cls=Panelled)(keeping_inputs(_command))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("sparsec"))
        raise typer.Exit


DEFECT = "sparsec-defect.onnx"
"""Where `--debug` writes the node that a defect was met at."""


@app.callback()
def _options(
    _version: Annotated[bool, typer.Option(
        "--version", is_eager=True, callback=_print_version, help="Show the version and exit.")] = False,
    _debug: Annotated[bool, typer.Option(
        "--debug", help=f"Show where an error comes from; of a defect, write the node without weights to {DEFECT}.",
        )] = False,
) -> None:
    pass


def main(interrupted: Callable[[], bool] = lambda: False) -> None:
    """Run the command line; exits with 0 when done, 1 when it failed, 2 when used wrongly and 3 for defects.

    Args:
        interrupted: whether Ctrl-C has come: what it becomes in a callback of TVM is no failure to tell of.

    Raises:
        KeyboardInterrupt: it has.

    """
    warnings.showwarning = _warn
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where it cannot keep its list of fonts
    try:
        app()
    except Exception as error:
        if interrupted():
            raise KeyboardInterrupt from error
        _tell(error)


def _tell(failure: Exception) -> NoReturn:
    """End with a line that says what failed, and the exit code of its kind."""
    match failure:
        case InternalError():
            _fail_internally(failure)
        case UsageError() | InputError() | ShapeError():
            _fail(as_typed(str(failure), takes_dim()), 2)
        case SparsecError():
            _fail(as_typed(str(failure), takes_dim()), 1)
        case OSError():
            _fail(f"{failure.filename}: {failure.strerror}" if failure.filename else str(failure), 1)
        case MemoryError():
            _fail("this takes more memory than there is; give the process more, or a smaller model", 1)
    from sparsec.compiler.failures import internal  # of commands that compile nothing: compiling names its defects

    _fail_internally(internal(failure))


def _warn(message: Warning | str, *_where: object, **_how: object) -> None:
    """A warning in one line, without the place in the program that gave it."""
    print(f"sparsec: warning: {printable(str(message))}", file=sys.stderr)


def as_typed(message: str, has_dim: bool = True) -> str:
    """A message of the Python interface with its options as the command line has them: "--max-error 2".

    Without `has_dim` it is told by a command that takes no `--dim`.
    """
    names = [name for name in compile.FLAGS if name not in ("shapes", "dims", "inputs")]

    def typed(found: re.Match[str]) -> str:
        flag, value = f"--{found['name'].replace('_', '-')}", found["value"]
        if value == "False":
            return f"--no-{flag.removeprefix('--')}"
        return flag if value == "True" else f"{flag} {value}"

    given = re.sub(rf"\b(?P<name>{'|'.join(names)})=(?P<quote>'?)(?P<value>[^\s',;]+)(?P=quote)", typed,
                   sizes_as_typed(message, has_dim))
    bare = "|".join(name for name in names if "_" in name)
    return re.sub(rf"(?<![\w'./-])(?P<name>{bare})(?![\w'./=])", lambda found:
                  f"--{found['name'].replace('_', '-')}", given)


def takes_dim() -> bool:
    """Whether the command that is run takes `--dim`."""
    name = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    return name not in COMMANDS or "dims" in signature(COMMANDS[name]).parameters


def _debugging() -> bool:
    """Whether `--debug` stands before the command."""
    return "--debug" in itertools.takewhile(lambda argument: argument.startswith("-"), sys.argv[1:])


def _fail_internally(error: InternalError) -> NoReturn:
    """End with what to report of a defect."""
    if _debugging() and error.node:
        _write_defect(error.node)
    _fail(str(error), 3)


def _write_defect(node: bytes) -> None:
    """Write a defect's node to `DEFECT`, with a number in the name where there are others, one may be the model."""
    names = itertools.chain([DEFECT], (f"{Path(DEFECT).stem}-{number}.onnx" for number in itertools.count(2)))
    files.write(next(name for name in names if not Path(name).exists()), node)


def _fail(message: str, code: int) -> NoReturn:
    if _debugging():
        traceback.print_exc()
    print(f"sparsec: error: {printable(message)}", file=sys.stderr)
    sys.exit(code)
