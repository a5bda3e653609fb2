"""The comparison of an artifact's outputs with a reference's that ends every compilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.backends.base import Execute
from sparsec.backends.job import Feeds
from sparsec.compiler.report import Skipped, Verification
from sparsec.errors import InputError, VerificationError
from sparsec.graph.references import Comparison, Model, compare_with_references
from sparsec.target import machine_features

CODEC_ERRORS = {"f32": 0.0, "f16": 2e-2, "bf16": 2e-2, "int8": 5e-2}
"""The largest error of an output that storing weights in fewer bits may cause."""


def tolerance(error: float, codec: str) -> float | None:
    """The largest error of an output, given that of its precision.

    None where weights are shared, so that the error says nothing about the program.
    """
    return None if codec not in CODEC_ERRORS else max(error, CODEC_ERRORS[codec])


def verify(model: Model, artifact: Artifact, execute: Callable[[], Execute], random: Sequence[Feeds],
           real: Sequence[Feeds], limit: float | None, *, strict: bool = True) -> Verification | Skipped:
    """Compare an artifact's outputs with a reference's on random and, where `strict` without fail, on real inputs.

    Returns:
        The errors, or why there was nothing to compare: random inputs need not be any that the model takes.

    Raises:
        InputError: the model does not take the real inputs.
        VerificationError: an output errs by more than the limit, or no reference takes the real inputs.

    """
    if missing := sorted(set(artifact.manifest.features) - machine_features()):
        return Skipped(f"this machine lacks {', '.join(missing)}")
    answer, names = execute(), [spec.name for spec in artifact.manifest.outputs]
    compared: list[Comparison] = []
    reason = ""
    for each, is_real in [*((each, False) for each in random), *((each, True) for each in real)]:
        try:
            comparison = compare_with_references(model, each, answer(each), names, limit)
        except InputError as error:
            if is_real:
                raise
            comparison = str(error)
        if isinstance(comparison, Comparison):
            compared.append(comparison)
        elif is_real and strict:
            raise VerificationError(f"there is nothing to compare the outputs for the given inputs with: {comparison}; "
                                    "compile without verification to accept that")
        else:
            reason = comparison
    if not compared:
        return Skipped(f"{reason}; give inputs that the model takes to compare on those")
    return _summary(names, compared, limit)


def _summary(names: Sequence[str], compared: Sequence[Comparison], limit: float | None) -> Verification:
    """What the report says of the comparisons."""
    errors = {name: max(each.differences[index].relative_error for each in compared)
              for index, name in enumerate(names)}
    reference = " and ".join(dict.fromkeys(each.reference for each in compared))
    if limit is not None and (wrong := [f"'{name}' by {e:.2g}" for name, e in errors.items() if e > limit]):
        raise VerificationError(f"outputs differ from those of {reference} by more than {limit:.0e} of their "
                                f"largest magnitude: {', '.join(wrong)}; compile with more precision or a larger "
                                "max_error, and report a defect if float32 is that far off")
    same = {name: [share for each in compared if (share := each.differences[index].same_class) is not None]
            for index, name in enumerate(names)}
    return Verification(reference, len(compared), limit, errors,
                        {name: float(np.mean(shares)) for name, shares in same.items() if shares})
