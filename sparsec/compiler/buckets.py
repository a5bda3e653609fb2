"""A model for several shapes: compiled once for each, into one artifact whose buckets share the weights they can.

A bucket takes exactly its own shapes: padding an input to a larger one would be right only where no row of the output
depends on another row of the input, which is not so for every model.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec

import numpy as np

from sparsec.artifact.file import MOST_BUCKETS, Artifact
from sparsec.artifact.manifest import PACKED
from sparsec.errors import UsageError
from sparsec.graph import reader
from sparsec.graph.compare import Feeds
from sparsec.graph.sizes import buckets, is_fixed
from sparsec.machine.memory import ALIGNMENT

P = ParamSpec("P")


def for_every_bucket(compile_one: Callable[P, Artifact]) -> Callable[P, Artifact]:
    """`sparsec.compile` for shapes of several sizes, by way of one that takes a single size everywhere.

    Real inputs go to the buckets that can take some of their rows; the time for measuring is divided among all buckets.
    """
    signature = inspect.signature(compile_one)

    @functools.wraps(compile_one)
    def compile_all(*args: P.args, **kwargs: P.kwargs) -> Artifact:
        options = signature.bind(*args, **kwargs)
        options.apply_defaults()
        given = dict(options.arguments)
        if is_fixed(given["shapes"] or {}):
            return compile_one(*args, **kwargs)
        combinations = buckets(reader.load(given["model"], symbolic=True), given["shapes"], MOST_BUCKETS)
        real = [_samples(given["inputs"], shapes) if given["inputs"] else None for shapes in combinations]
        if given["inputs"] and not any(real):
            found = {name: np.shape(array) for name, array in given["inputs"].items()}
            raise UsageError(f"the inputs have the shapes {found}, which fit none of the buckets {combinations}")
        artifacts = []
        for index, (shapes, inputs) in enumerate(zip(combinations, real, strict=True)):
            part = functools.partial(_report, given["progress"], index, len(combinations))
            options.arguments |= {
                "shapes": shapes, "inputs": inputs, "progress": part,
                "tune_seconds": given["tune_seconds"] / len(combinations),
                "dump_ir": given["dump_ir"] and Path(given["dump_ir"]) / str(index)}
            artifacts.append(compile_one(*options.args, **options.kwargs))
            if not artifacts[0].library:
                raise UsageError(f"target '{artifacts[0].manifest.target}' takes one size for every dimension; give "
                                 "each --shape with single numbers")
        return merge(artifacts)

    return compile_all


def _samples(inputs: Feeds, shapes: Mapping[str, tuple[int, ...]]) -> Feeds | None:
    """The real inputs as a bucket takes them: as they are, or the rows of as many whole samples as there are."""
    found = {name: np.shape(array) for name, array in inputs.items()}
    if found.items() >= shapes.items():
        return inputs
    if found.keys() != shapes.keys() or any(not shape or not shape[0] or found[name][1:] != shape[1:]
                                            for name, shape in shapes.items()):
        return None
    count = min(found[name][0] // shape[0] for name, shape in shapes.items())
    return {name: inputs[name][:count * shape[0]] for name, shape in shapes.items()} if count else None


def _report(progress: Callable[[str, float], None] | None, index: int, count: int, step: str, done: float) -> None:
    """Tell of the share of all buckets' work that is done."""
    if progress is not None:
        progress(step, (index + done) / count)


def merge(artifacts: Sequence[Artifact]) -> Artifact:
    """One artifact of these buckets, in order; equal bytes of weights are stored once."""
    weights, offsets = bytearray(), dict[tuple[int, bytes], int]()

    def place(data: memoryview) -> int:
        key = len(data), hashlib.sha256(data).digest()
        if key not in offsets:
            weights.extend(bytes(-len(weights) % ALIGNMENT))
            offsets[key] = len(weights)
            weights.extend(data)
        return offsets[key]

    moved = []
    for artifact in artifacts:
        data, manifest = memoryview(artifact.weights), artifact.manifest
        constants = tuple(each if each.encoding == PACKED else replace(
            each, offset=place(data[each.offset:each.offset + each.nbytes])) for each in manifest.constants)
        stored = tuple(replace(weight, streams=tuple(replace(
            each, offset=place(data[each.offset:each.offset + each.nbytes])) for each in weight.streams))
            for weight in manifest.stored)
        moved.append(replace(artifact, manifest=replace(manifest, constants=constants, stored=stored)))
    shared = bytes(weights)
    first, *others = (replace(artifact, weights=shared) for artifact in moved)
    return replace(first, others=tuple(others))
