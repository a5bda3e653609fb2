"""Inputs for an artifact where the user gives none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.artifact.file import Artifact
from sparsec.compiler.samples import SHARES, sample_of, usual
from sparsec.errors import ShapeError, SparsecError
from sparsec.graph.compare import random_feeds
from sparsec.runtime.session import InferenceSession
from sparsec.runtime.sized.declared import declared


def random_inputs(artifact: Artifact, shapes: Mapping[str, Sequence[int]] | None = None,
                  dims: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Random inputs of an artifact's own shapes, of its first bucket where it has several.

    The graph says what the values of an input may be; it may be that of a share of the rows (`compiler.batches`).

    Args:
        artifact: what is to run.
        shapes: of some inputs by name, where a bucket is to be chosen.
        dims: sizes of dimensions by name, where the run tells them.

    Where the run tells the sizes, those that `shapes` and `dims` leave open are what `compiler.samples.usual` says, or
    less where the model refuses that.

    Raises:
        ShapeError: no bucket has these shapes.

    """
    if (found := declared(artifact)) is not None:
        limits = {name: limit for name, limit in found.dims.items() if limit is not None}
        return _of_any_size(artifact, limits, shapes or {}, dims or {})
    if dims:
        raise ShapeError(f"the artifact has no dimension '{next(iter(dims))}' whose size the run tells; leave it out, "
                         "or compile the model without giving it one size")
    artifact = _bucket(artifact, shapes or {})
    graph = ir.from_proto(onnx.ModelProto.FromString(artifact.graph))
    shapes = {spec.name: spec.shape for spec in artifact.manifest.inputs}
    for value in graph.graph.inputs:
        value.shape = ir.Shape(shapes[value.name or ""])
    return random_feeds(graph)


def sizes_of(artifact: Artifact, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes that inputs give to the dimensions that the run tells; none of an artifact of fixed shapes."""
    found = declared(artifact)
    return {} if found is None else found.sizes_of(feeds)


def _of_any_size(artifact: Artifact, limits: Mapping[str, tuple[int, int]], shapes: Mapping[str, Sequence[int]],
                 dims: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Inputs of the largest of some sizes that the artifact takes."""
    graph = ir.from_proto(onnx.ModelProto.FromString(artifact.graph))
    session = None
    for share in SHARES:
        others = usual(graph.graph.inputs, limits, share)
        feeds = dict(sample_of(graph, limits, shapes, dims, others))
        if {*others} <= {*dims}:
            return feeds
        session = session or InferenceSession(artifact)
        with suppress(SparsecError):  # a table of positions may have fewer, of which shapes do not tell
            session.run(None, feeds)
            return feeds
    return dict(sample_of(graph, limits, shapes, dims))


def _bucket(artifact: Artifact, wanted: Mapping[str, Sequence[int]]) -> Artifact:
    """The first bucket that takes these shapes."""
    buckets = artifact.buckets
    taken = [{spec.name: tuple(spec.shape) for spec in bucket.manifest.inputs} for bucket in buckets]
    for bucket, shapes in zip(buckets, taken, strict=True):
        if all(shapes.get(name) == tuple(shape) for name, shape in wanted.items()):
            return bucket
    asked, *known = (", ".join(f"'{name}' {list(shape)}" for name, shape in shapes.items())
                     for shapes in (wanted, *taken))
    raise ShapeError(f"the artifact does not take {asked}; it takes {' or '.join(known)}")
