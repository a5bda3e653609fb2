"""Whether an artifact and a model that it is timed beside compute the same."""

from __future__ import annotations

from pathlib import Path

from sparsec.artifact.file import Artifact
from sparsec.backends.job import Feeds
from sparsec.errors import VerificationError, counted
from sparsec.graph import ort
from sparsec.graph.compare import compare
from sparsec.runtime.session import InferenceSession

SLACK = 10
"""Times the error that its compilation allowed or found, up to which an artifact's outputs are a model's."""
UNVERIFIED = 0.05
"""The error that an artifact which nobody has verified is allowed."""


def check_agreement(artifact: Artifact, name: Path, model: Path, feeds: Feeds) -> float | None:
    """The largest relative error of an artifact's outputs; None where onnxruntime cannot tell what they should be.

    Raises:
        InputError: the inputs are not the artifact's.
        VerificationError: its outputs are another network's.

    """
    with InferenceSession(artifact) as session:
        actual, names = session.run(None, dict(feeds)), [each.name for each in session.get_outputs()]
    try:
        expected = ort.session(model).run(None, dict(feeds))
    except Exception:  # noqa: BLE001 - timing it says what is wrong
        return None
    if len(actual) != len(expected):
        raise VerificationError(f"{name} was not compiled from {model}: it has "
                                f"{counted(len(actual), 'output')}, and that {len(expected)}")
    worst = max(compare(names, actual, expected), key=lambda each: each.relative_error)
    if worst.relative_error > (limit := SLACK * _allowed(artifact)):
        raise VerificationError(
            f"{name} was not compiled from {model}: for the same inputs output '{worst.output}' differs by "
            f"{worst.relative_error:.1e} of its largest magnitude, where {limit:.0e} is expected at most; give the "
            "model that it was compiled from")
    return worst.relative_error


def _allowed(artifact: Artifact) -> float:
    """What the outputs were allowed to err by, or do."""
    verified = artifact.report.get("verification") or {}
    errors = [verified.get("tolerance") or 0.0, *verified.get("relative_error", {}).values()]
    return max(errors, default=0.0) or UNVERIFIED
