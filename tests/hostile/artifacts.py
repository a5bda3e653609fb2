"""Artifacts that nothing executes, and files that pass for artifacts: any members under right digests."""

import hashlib
import io
import zipfile

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.backends.program import Packed, Program, TensorSpec
from sparsec.kernels.packing.blocks import PaddedBlocks
from sparsec.target import resolve


def sealed(contents, method=zipfile.ZIP_DEFLATED):
    """An artifact file of any members, with a valid digest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
        archive.comment = b" " * 64
    body = buffer.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def members(artifact):
    """The members of an artifact's file."""
    with zipfile.ZipFile(io.BytesIO(artifact.to_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def small_artifact():
    """An artifact of two constants."""
    constants = np.arange(3, dtype=np.int16), np.ones((2, 2), np.float32)
    spec = TensorSpec("x", "float32", (1,))
    return Artifact.build(Program(b"library", "main", constants, (spec,), (spec,)), resolve("cpu-generic"), 1, b"graph",
                          {"layers": []})


def stored_artifact():
    """An artifact with a weight in its smallest format."""
    weight = np.zeros((16, 256), np.float32)
    weight[::5, ::7] = 3.5
    recipe = PaddedBlocks(16, 8)
    spec = TensorSpec("x", "float32", (1,))
    constants = tuple(recipe.pack(weight).values())
    packed = (Packed(weight, recipe, tuple(range(len(constants)))),)
    return Artifact.build(Program(b"library", "main", constants, (spec,), (spec,), packed=packed),
                          resolve("cpu-generic"), 1, b"graph", {"layers": []})
