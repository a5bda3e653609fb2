"""What a zip file holds that is given for an ONNX model, and what to do with it."""

from __future__ import annotations

from sparsec.errors import ModelError

MAGIC = b"PK\x03\x04"
NAME = 30
"""Where the name of the first member begins."""
COMPILED = b"manifest.json"
"""The first member of artifacts."""
HEAD = NAME + len(COMPILED)
"""Bytes of a file that tell."""


def is_compiled(head: bytes) -> bool:
    """Whether a file that begins so is an artifact."""
    return head.startswith(MAGIC) and head[NAME:].startswith(COMPILED)


def check_no_archive(where: str, head: bytes) -> None:
    """Check that a file that begins so may be an ONNX model.

    Raises:
        ModelError: it is an artifact or another zip file.

    """
    if is_compiled(head):
        raise ModelError(f"{where}: a compiled artifact, and this takes the ONNX model that it was compiled from; "
                         "`sparsec run`, `bench`, `inspect`, `verify`, `bundle` and `serve` take artifacts")
    if head.startswith(MAGIC):
        raise ModelError(f"{where}: a zip file, as .npz files and PyTorch's checkpoints are, and not an ONNX model; "
                         "pass an .onnx file")
