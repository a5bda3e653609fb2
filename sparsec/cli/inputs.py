"""What a command reads is not overwritten by what it writes, however the paths are spelt."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from typer.models import ArgumentInfo, ParameterInfo

from sparsec import files
from sparsec.cli import options
from sparsec.errors import UsageError


@dataclass(frozen=True)
class Role:
    """A parameter of a command that files are given by.

    Attributes:
        shown: as users know it, such as "--json" or "the model itself".
        reads: whether the command reads the file or the folder, or else writes it.
        is_folder: whether it is a folder.

    """

    shown: str
    reads: bool
    is_folder: bool


def roles(command: Callable[..., None]) -> dict[str, Role]:
    """By name, the parameters that files are given by: those that must exist are read, the others written."""
    found = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind, *about = get_args(parameter.annotation) or (parameter.annotation,)
        info = next((each for each in about if isinstance(each, ParameterInfo)), None)
        argument = isinstance(info, ArgumentInfo)
        if info is not None and (Path in (kind, *get_args(kind)) or argument):
            shown = f"the {'model' if name == 'source' else name} itself" if argument else flag_of(name, info)
            found[name] = Role(shown, argument or bool(info.exists), not info.file_okay)
    return found


def flag_of(name: str, info: ParameterInfo) -> str:
    """The long name of an option; typer has the first of those that are given as the default."""
    given = [str(each) for each in (info.default, *(info.param_decls or ()))]
    return next((each for each in given if each.startswith("--")), f"--{name.replace('_', '-')}")


def keeping_inputs(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which raises UsageError in place of overwriting a file that it reads, and for a folder that is none.

    That is what its parameters name, the external data of models, signatures, what lies in folders that are read and
    beside decoders. What has been measured here is not overwritten either, and two outputs are not one file.
    """
    known = roles(command)

    @functools.wraps(command)
    def call(**given: Any) -> None:
        outputs = {each: given[each] for each, role in known.items()
                   if not role.reads and isinstance(given.get(each), Path)}
        inputs = {path: known[each].shown for each in known if known[each].reads for path in _paths(given.get(each))}
        with files.keeping(lambda path: _use(path, inputs)):
            for each, path in outputs.items():
                files.check_replaceable(path)
                files.check_replaceable(path, _measured)
                (options.check_new_folder if known[each].is_folder else options.check_folder)(path)
            _check_apart({known[each].shown: path for each, path in outputs.items()})
            command(**given)

    return call


def _paths(value: Any) -> Iterator[Path]:
    """The files and folders that a parameter's value names."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, Path):
            yield each
        elif isinstance(each, str) and "\0" not in each and Path(each).is_file():
            yield Path(each)


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _use(path: Path, inputs: Mapping[Path, str]) -> str:
    """What a file is to a command of these inputs, empty where it is nothing."""
    for each, shown in inputs.items():
        if _same(path, each) or (each.is_dir() and each.resolve() in path.parents):
            return f"read by {shown}" if shown.startswith("--") else shown
        if each.is_file() and (beside := _beside(path, each)):
            return f"{beside} {each}"
    return ""


def _beside(path: Path, read: Path) -> str:
    """What a file is to one that is read, empty where it is nothing."""
    from sparsec.artifact import signing
    from sparsec.generation import sampling, text

    if _same(path, signing.signature_path(read)):
        return "the signature of"
    if any(_same(path, read.with_name(name)) for name in (sampling.CONFIG, text.FILE)):
        return "read beside"
    return "external data of" if any(_same(path, each) for each in _external(read)) else ""


def _external(path: Path) -> Iterator[Path]:
    """The external data of a file, where it is a model."""
    import onnx
    from google.protobuf.message import DecodeError

    from sparsec.cli.model_file import locations_in

    try:
        model = onnx.ModelProto.FromString(files.read_regular(path))
    except (OSError, DecodeError):
        return
    yield from (path.parent / location for location in set(locations_in(model)) if "\0" not in location)


def _measured(path: Path) -> str:
    """What a file is to later commands."""
    return "kept by sparsec of what it has measured" if files.cache_folder().resolve() in path.parents else ""


def _check_apart(outputs: Mapping[str, Path]) -> None:
    """Raises UsageError where two outputs are one file, of which one would be lost; devices take both."""
    places: dict[Path, str] = {}
    for name, path in outputs.items():
        place = path.resolve()
        if place in places and (place.is_file() or not place.exists()):
            raise UsageError(f"{name} {path}: the same file as {places[place]}; write to another")
        places[place] = name
