"""`sparsec bench --profile --dim …`: what a call of an artifact for run-time sizes does, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsec.cli import options, tables
from sparsec.cli.compile import compile_with_progress
from sparsec.cli.tables import console
from sparsec.compiler.options import CompileOptions
from sparsec.errors import UsageError

if TYPE_CHECKING:
    from sparsec.bench.sized_profile import SizedProfile


def profile_sizes(file: Path, json: Path | None, chosen: CompileOptions, dims: Mapping[str, int | str],
                  feeds: Path | None, shapes: Sequence[str]) -> None:
    """Print what a call of some sizes does in an artifact for any, which a model is compiled to first.

    The sizes are those of `dims`, for an artifact also of `shapes`, or of the arrays that the file `feeds` holds.

    Raises:
        UsageError: the artifact, or the model, has no run-time sizes.

    """
    from sparsec.artifact.file import Artifact, is_artifact
    from sparsec.backends.program import SIZED
    from sparsec.bench.sized_profile import profile_sized
    from sparsec.graph.reader import load
    from sparsec.graph.sizes import bound_dims, check_dims

    compiled = is_artifact(file)
    if not compiled:
        check_dims(load(file, symbolic=True), dims)
    artifact = Artifact.load(file) if compiled else compile_with_progress(file, replace(chosen, verify=False))
    if artifact.manifest.entry != SIZED:
        raise UsageError(f"{file} was compiled for fixed shapes; --profile takes the ONNX model then" if compiled else
                         f"{file} has no run-time sizes; leave --dim out")
    given = options.single(dims) if compiled else bound_dims(dims)
    inputs = options.inputs_for(artifact, feeds, shapes if compiled else (), None if feeds and not compiled else given)
    found = profile_sized(artifact, inputs)
    options.write_json(json, {"file": str(file), "threads": chosen.threads, **asdict(found)})
    console.print(", ".join(f"{name} = {size}" for name, size in found.sizes.items()) + "\n")
    total = sum(each.us for each in found.steps)
    tables.print_table(("step", "time", "share", "bytes", "GB/s"), [
        (each.name, tables.duration(each.us), tables.percent(each.us, total),
         "" if each.bytes is None else tables.nbytes(each.bytes),
         "" if each.bytes is None else f"{each.bytes / each.us / 1e3:.1f}") for each in found.steps],
        ("one by one", tables.duration(total), "", tables.nbytes(found.weight_bytes), ""))
    how = ("as one function" if found.as_one else "which repeats what the first of these sizes found out" if
           found.repeated else "as these steps")
    moved = found.weight_bytes + found.cache_bytes
    console.print(f"\na call, {how}: {tables.duration(found.call_us)}; it reads {tables.nbytes(found.weight_bytes)} "
                  f"of weights{_caches(found)} ({moved / found.call_us / 1e3:.1f} GB/s)\n"
                  + ("one by one, Python looks at every step, as in a first call, which takes longer: the shares count"
                     if total > found.call_us else "the steps and the call were timed one after the other on a machine "
                     "that other programs disturbed: measure again when it is quiet"))


def _caches(found: SizedProfile) -> str:
    """What a call reads and copies of caches, where there are any."""
    if not found.cache_bytes and not found.copied_bytes:
        return ""
    read, copied = (tables.nbytes(size) for size in (found.cache_bytes, found.copied_bytes))
    return f" and {read} of caches, copies {copied} of caches"
