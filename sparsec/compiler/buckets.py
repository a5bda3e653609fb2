"""A model for several shapes: compiled once for each, into one artifact whose buckets share the weights they can.

A bucket takes exactly its own shapes: padding an input to a larger one would be right only where no row of the output
depends on another row of the input, which is not so for every model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from sparsec.artifact.container import MOST_BUCKETS
from sparsec.artifact.file import Artifact
from sparsec.artifact.manifest import PACKED
from sparsec.artifact.weights import Layout
from sparsec.backends.job import Feeds
from sparsec.compiler.options import CompileOptions, Progress
from sparsec.errors import UsageError
from sparsec.graph.reader import Source, load
from sparsec.graph.sizes import buckets

Sizes = Mapping[str, tuple[int, ...]]
"""The shape of every input that has symbolic dimensions."""
Compile = Callable[[Source, CompileOptions], Artifact]


def compile_buckets(compile_one: Compile) -> Compile:
    """`sparsec.compile` for shapes of several sizes, by way of one that takes a single size everywhere.

    Real inputs go to the buckets that can take some of their rows; the time for measuring is divided among all buckets.
    """
    def compile_all(model: Source, options: CompileOptions) -> Artifact:
        shapes = buckets(load(model, symbolic=True), options.shapes or {}, MOST_BUCKETS)
        artifacts = []
        for index, inputs in enumerate(_inputs(options.inputs, shapes)):
            artifacts.append(compile_one(model, _bucket(options, shapes, index, inputs)))
            if not artifacts[0].library:
                raise UsageError(f"target '{artifacts[0].manifest.target}' takes one size for every dimension; give "
                                 "shapes of single numbers")
        return merge(artifacts)

    return compile_all


def _bucket(options: CompileOptions, shapes: Sequence[Sizes], index: int, inputs: Feeds | None) -> CompileOptions:
    """The options of one bucket."""
    progress = None if options.progress is None else partial(_report, options.progress, index, len(shapes))
    return replace(options, shapes=shapes[index], inputs=inputs, progress=progress,
                   tune_seconds=options.tune_seconds / len(shapes),
                   dump_ir=options.dump_ir and Path(options.dump_ir) / str(index))


def _inputs(inputs: Feeds | None, shapes: Sequence[Sizes]) -> list[Feeds | None]:
    """The real inputs of every bucket."""
    real = [_samples(inputs, each) if inputs else None for each in shapes]
    if inputs and not any(real):
        found = {name: np.shape(array) for name, array in inputs.items()}
        raise UsageError(f"the inputs have the shapes {found}, which fit none of the buckets {list(shapes)}")
    return real


def _samples(inputs: Feeds, shapes: Sizes) -> Feeds | None:
    """The real inputs as a bucket takes them: as they are, or the rows of as many whole samples as there are."""
    found = {name: np.shape(array) for name, array in inputs.items()}
    if found.items() >= shapes.items():
        return inputs
    if found.keys() != shapes.keys() or any(not shape or not shape[0] or found[name][1:] != shape[1:]
                                            for name, shape in shapes.items()):
        return None
    count = min(found[name][0] // shape[0] for name, shape in shapes.items())
    return {name: inputs[name][:count * shape[0]] for name, shape in shapes.items()} if count else None


def _report(progress: Progress, index: int, count: int, step: str, done: float) -> None:
    """Tell of the share of all buckets' work that is done."""
    progress(step, (index + done) / count)


def merge(artifacts: Sequence[Artifact]) -> Artifact:
    """One artifact of these buckets, in order; equal bytes of weights are stored once."""
    layout, offsets = Layout(), dict[tuple[int, bytes], int]()

    def place(data: memoryview) -> int:
        key = len(data), hashlib.sha256(data).digest()
        if key not in offsets:
            offsets[key] = layout.append(data)
        return offsets[key]

    moved = []
    for artifact in artifacts:
        part, manifest = artifact.weights.part, artifact.manifest
        constants = tuple(each if each.encoding == PACKED else replace(
            each, offset=place(part(each.offset, each.nbytes))) for each in manifest.constants)
        stored = tuple(replace(weight, streams=tuple(replace(
            each, offset=place(part(each.offset, each.nbytes))) for each in weight.streams))
            for weight in manifest.stored)
        moved.append(replace(artifact, manifest=replace(manifest, constants=constants, stored=stored)))
    shared = layout.weights()
    first, *others = (replace(artifact, weights=shared) for artifact in moved)
    return replace(first, others=tuple(others))
