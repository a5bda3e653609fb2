"""The command line. A command is a function `command` in a module of its own, entered in `COMMANDS`."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from sparsec.cli import (
    bench,
    calibrate,
    compile,  # noqa: A004 - modules are named after their commands
    explain,
    export,
    formats,
    inspect,
    prune,
    quantize,
    run,
    simulate,
    strip,
    study,
    targets,
    verify,
)
from sparsec.errors import SparsecError, UsageError

COMMANDS: dict[str, Callable[..., None]] = {
    "compile": compile.command,
    "run": run.command,
    "bench": bench.command,
    "inspect": inspect.command,
    "explain": explain.command,
    "formats": formats.command,
    "strip": strip.command,
    "quantize": quantize.command,
    "simulate": simulate.command,
    "targets": targets.command,
    "verify": verify.command,
    "calibrate": calibrate.command,
    "prune": prune.command,
    "export": export.command,
    "study": study.command,
}

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Compile pruned ONNX models into the fastest programs that their sparsity allows.")
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("sparsec"))
        raise typer.Exit


@app.callback()
def _options(_version: Annotated[bool, typer.Option(
        "--version", is_eager=True, callback=_print_version, help="Show the version and exit.")] = False) -> None:
    pass


def main() -> None:
    """Run the command line; exits with 0 when done, 1 when it failed and 2 when it was used wrongly."""
    try:
        app()
    except UsageError as error:
        _fail(str(error), 2)
    except SparsecError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"sparsec: error: {message}", file=sys.stderr)
    sys.exit(code)
