"""Options and arguments that several commands share."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from sparsec import files
from sparsec.cli.tables import console
from sparsec.errors import InputError, UsageError, counted
from sparsec.graph.archives import HEAD, MAGIC, check_no_archive, is_compiled
from sparsec.graph.framing import check_framing
from sparsec.machine import cpus

if TYPE_CHECKING:
    from sparsec.artifact.file import Artifact



def _model_path(path: Path) -> Path:
    """The path of an ONNX model; that of an artifact is refused before anything is said of where it would write."""
    if is_compiled(head := files.read_regular(path, HEAD)):
        check_no_archive(str(path), head)
    model_or_archive(path)
    return path


def model_or_archive(path: Path | None) -> Path | None:
    """The path of an ONNX model, an artifact or another zip file; what is none is refused.

    Raises:
        ModelError: it is none, which is told before anything that takes seconds is imported.

    """
    if path is None:
        return None
    with files.open_regular(path) as file:
        head = file.read(HEAD)
        if not head.startswith(MAGIC):
            file.seek(0)
            check_framing(str(path), file, os.fstat(file.fileno()).st_size)
    return path


ModelFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, callback=_model_path, help="An ONNX model.")]
Target = Annotated[str, typer.Option(help="What to compile for; `sparsec targets` lists the names.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that one inference may use.")]
Shapes = Annotated[list[str], typer.Option(
    "--shape", metavar="NAME:D,D,…", help="Shape of an input with symbolic dimensions; may be repeated.")]
Sizes = Annotated[list[str], typer.Option(
    "--shape", metavar="NAME:D,D,…", help="Shape of an input with symbolic dimensions; may be repeated. A dimension "
    "may be 1..8 or 1/8/32: the artifact has a bucket for every combination.")]
Dims = Annotated[list[str], typer.Option(
    "--dim", metavar="NAME=SIZE", help="Size of a symbolic dimension by its name, or the range that the run may choose "
    "from, such as sequence=1..512; may be repeated. What neither this nor --shape gives the run tells.")]
PublicKey = Annotated[Path | None, typer.Option(
    exists=True, dir_okay=False, help="A public Ed25519 key in PEM that must have signed the artifact.")]
JsonFile = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the figures to this file.")]


SUFFIXES = (".npz", ".npy")
"""Of the files that arrays are written to: several by name, or one."""


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input name from texts such as "input:1,3,224,224"; a scalar is "name:".

    Raises:
        UsageError: a text of another form.

    """
    shapes = {}
    for name, sizes in parse_sizes(texts).items():
        numbers = [size for size in sizes if isinstance(size, int)]
        if len(numbers) < len(sizes):
            raise UsageError(f"--shape {name}:{','.join(map(str, sizes))}: give single numbers; several sizes are for "
                             "compile")
        shapes[name] = tuple(numbers)
    return shapes


def parse_sizes(texts: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """Shapes as `parse_shapes`, whose sizes may be several: "input:1..8,3,224,224".

    Raises:
        UsageError: a text of another form.

    """
    shapes = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        if not colon or not name or not re.fullmatch(r"([0-9./-]+(,[0-9./-]+)*)?", sizes):
            raise UsageError(f"--shape {text}: give the input's name and its sizes, such as input:1,3,224,224")
        if name in shapes:
            raise UsageError(f"--shape {text}: input '{name}' has another --shape already; leave one of them out")
        shapes[name] = tuple(int(size) if re.fullmatch("-?[0-9]{1,18}", size) else size
                             for size in sizes.split(",") if size)
    return shapes


def parse_dims(texts: Sequence[str]) -> dict[str, int | str]:
    """Sizes by symbolic dimension from texts such as "batch=1" and "sequence=1..512".

    Raises:
        UsageError: a text of another form.

    """
    dims: dict[str, int | str] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if name and re.fullmatch(r"-[0-9]+(\.\.-?[0-9]+)?|[0-9]+\.\.-[0-9]+", size):
            raise UsageError(f"--dim {text}: sizes are positive; give one from 1 on, or a range such as {name}=0..8")
        if not equals or not name or not re.fullmatch(r"[0-9]{1,18}(\.\.[0-9]{1,18})?", size):
            raise UsageError(f"--dim {text}: give the dimension's name and its size or range, such as batch=1 or "
                             "sequence=1..512")
        if size.isdecimal() and int(size) == 0:
            raise UsageError(f"--dim {text}: with a size of 0 there is nothing to compute; give one from 1 on, or a "
                             f"range such as {name}=0..8")
        if name in dims:
            raise UsageError(f"--dim {text}: '{name}' has --dim {name}={dims[name]} already; leave one of them out")
        dims[name] = int(size) if size.isdecimal() else size
    return dims


def single(dims: Mapping[str, int | str]) -> dict[str, int]:
    """Dimensions of one size each.

    Raises:
        UsageError: one is a range.

    """
    if several := [name for name, size in dims.items() if not isinstance(size, int)]:
        raise UsageError(f"--dim {several[0]}={dims[several[0]]}: give one size here, such as {several[0]}=8")
    return {name: size for name, size in dims.items() if isinstance(size, int)}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Raises:
        UsageError: it is not such a file, or holds Python objects.

    """
    try:
        size = files.check_regular(path).st_size
        with zipfile.ZipFile(path) as archive:
            files.check_members(archive, files.budget(size))
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _plain(path, name, arrays) for name in arrays.files}
    except UsageError:
        raise
    except Exception as error:  # whatever numpy and zipfile raise on a damaged file
        raise UsageError(f"{path}: not an .npz file of plain arrays ({error}); write one with numpy.savez") from error


def _plain(path: Path, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """An array of a file, which is read only where it holds no Python objects."""
    try:
        return arrays[name]
    except ValueError as error:
        if "Object arrays" not in str(error):  # numpy's words
            raise
        raise UsageError(f"{path}: '{name}' holds Python objects; store numbers, such as {name}.astype(numpy.float32)"
                         ) from error


def inputs_for(artifact: Artifact, path: Path | None, shapes: Sequence[str] = (),
               dims: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """The inputs of a run: a file's, or random ones of some shapes, and says so, with the sizes that it has chosen.

    Raises:
        ShapeError: the artifact does not take the shapes.
        UsageError: the file holds no arrays, an .npy file is given to a model of several inputs, or sizes beside one.

    """
    if path is not None and (shapes or dims):
        raise UsageError("the arrays of --input have shapes; leave --shape and --dim out")
    if path is None:
        from sparsec.bench.feeds import random_inputs, sizes_of

        feeds = random_inputs(artifact, parse_shapes(shapes), dims)
        sizes = ", ".join(f"{name} = {size}" for name, size in sizes_of(artifact, feeds).items())
        others = "" if shapes or dims or not sizes else ", --dim and --shape other sizes"
        console.print(f"inputs are random{f', at {sizes}' if sizes else ''}; --input gives your own{others}\n")
        return feeds
    return arrays_for(path, [spec.name for spec in artifact.manifest.inputs])


def arrays_of_model(path: Path, model: Path, shapes: Mapping[str, Sequence[int]],
                    dims: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The arrays of a file that are an ONNX model's inputs, of sizes that `shapes` and `dims` allow.

    Raises:
        InputError: they have other names or types.
        ShapeError: they have other shapes.
        UsageError: the file holds no arrays, or one where the model takes several.

    """
    from sparsec.graph.reader import load
    from sparsec.graph.shapes import bind

    graph = load(model, shapes=shapes, dims=dims, symbolic=True)
    inputs = {str(value.name): value for value in graph.graph.inputs}
    arrays = arrays_for(path, list(inputs))
    if arrays.keys() != inputs.keys():
        raise InputError(f"{model} takes the inputs {', '.join(inputs)}; {path} holds {', '.join(arrays) or 'none'}")
    for name, array in arrays.items():
        dtype = inputs[name].dtype
        if dtype is not None and array.dtype != dtype.numpy():
            raise InputError(f"{path}: '{name}' is of type {array.dtype}, and {model} takes {dtype.numpy()}")
    bind(graph, {name: array.shape for name, array in arrays.items()}, f"{path} for {model}")
    return arrays


def samples_of(path: Path, model: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of samples of an ONNX model, whose one input an .npy file is for.

    Raises:
        ModelError: an .npy file is given, and the model cannot be read.
        UsageError: the file holds no arrays, or one where the model takes several.

    """
    if path.suffix != ".npy":
        return read_arrays(path)
    from sparsec.oneshot.file import read

    graph = read(model)[0].graph
    constants = {each.name for each in graph.initializer}
    return arrays_for(path, [each.name for each in graph.input if each.name not in constants])


def arrays_for(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, or that of an .npy file for the one input that there is.

    Raises:
        UsageError: the file holds no arrays, or an .npy file is given to a model of several inputs.

    """
    if path.suffix != ".npy":
        return read_arrays(path)
    if len(names) != 1:
        raise UsageError(f"{path}: one array, and the model takes the inputs {', '.join(names)}; write an .npz file "
                         "with numpy.savez")
    try:
        files.check_regular(path)
        return {names[0]: np.load(path, allow_pickle=False)}
    except (OSError, ValueError, EOFError, MemoryError) as error:  # its header may promise terabytes
        raise UsageError(f"{path}: not an .npy file of a plain array ({error}); write one with numpy.save") from error


def check_arrays_file(path: Path, arrays: int) -> None:
    """Check that `write_arrays` can write so many arrays to a file.

    Raises:
        UsageError: its folder is missing or read-only, its name says another kind of file, or that it is an .npy file,
            which holds one array.

    """
    check_folder(path)
    if path.suffix not in SUFFIXES and (path.is_file() or not path.exists()):  # a device or a pipe has what name it has
        raise UsageError(f"{path}: outputs are written as {' or '.join(SUFFIXES)}; name it "
                         f"{path.with_suffix(SUFFIXES[0]).name}")
    if path.suffix == ".npy" and arrays != 1:
        raise UsageError(f"{path}: an .npy file holds one array, and the model has {arrays} outputs; name an .npz file")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file, or an .npy file of the one array, replacing what was there at once."""
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        (array,) = arrays.values()
        np.save(buffer, array, allow_pickle=False)
        files.write(path, buffer.getvalue())
        return
    with zipfile.ZipFile(buffer, "w") as archive:  # numpy.savez takes some names for its own arguments
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    files.write(path, buffer.getvalue())


def check_folder(path: Path) -> None:
    """Check that a file can be written, before what it is to hold takes minutes.

    Raises:
        UsageError: its folder is missing or read-only, or the command reads the file.

    """
    files.check_replaceable(path)
    given, path = path, Path(os.path.realpath(path))
    if path.exists() and not path.is_file():  # a device or a pipe, which is written to
        if not os.access(path, os.W_OK):
            raise UsageError(f"{given}: {os.strerror(errno.EACCES)}")
        return
    if not path.parent.is_dir():
        raise UsageError(f"{given}: its folder does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{given}: its folder is read-only; choose another")
    _check_takes_files(given, path.parent)


def check_new_folder(path: Path) -> None:
    """Check that files can be written into a folder, or into one that is made, before what they are to hold is.

    Raises:
        UsageError: it or its first parent that is there is no folder or takes no files.

    """
    there = next(each for each in (each.absolute() for each in (path, *path.absolute().parents)) if each.exists())
    if not there.is_dir():
        raise UsageError(f"{path}: {there} is a file; choose another folder")
    _check_takes_files(path, there)


def _check_takes_files(given: Path, folder: Path) -> None:
    """Make a file that is gone at once: folders such as /proc take none, whoever asks and whatever their mode says."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".sparsec-"):
            pass
    except OSError as error:
        raise UsageError(f"{given}: nothing can be written to {folder} ({os.strerror(error.errno or errno.EACCES)}); "
                         "choose another folder") from error


def tell_of_cores(threads: int) -> None:
    """Say on the standard error where this machine has fewer cores than threads are asked for."""
    if threads > cpus.available():
        print(f"sparsec: {counted(cpus.available(), 'core')} may be used here; sessions on this machine take no more "
              "threads",
              file=sys.stderr)


def write_json(path: Path | None, value: Any) -> None:
    """Write a JSON file where one is asked for, replacing what was there at once."""
    if path is not None:
        files.write(path, json.dumps(value, indent=1).encode() + b"\n")
