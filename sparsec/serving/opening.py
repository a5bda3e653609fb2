"""From a file to a session that is served, and what its queue may do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sparsec.artifact.file import Artifact
from sparsec.compiler.portable import build_once
from sparsec.runtime.session import InferenceSession
from sparsec.serving.batching import Limits, why_not_together


def opened(path: Path, threads: int, limits: Limits, key: Path | None = None) -> tuple[InferenceSession, Limits, str]:
    """The session of an artifact, its queue's limits, and why each request runs by itself, empty where they need not.

    Args:
        path: of the artifact; a portable one is compiled first.
        threads: of a run.
        limits: what the queue may do where requests may be rows of one run.
        key: the public key of its signature, where it must have one.

    Raises:
        SparsecError: as loading and opening it raises.

    """
    session = InferenceSession(build_once(Artifact.load(path, require_signature=key)), threads)
    reason = why_not_together(session) if limits.rows > 1 else "one row at a time was asked for"
    return session, replace(limits, rows=1) if reason else limits, reason or ""
