"""What a compilation tells of itself: typed while it is made, JSON in the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from sparsec.backends.layer_report import LayerReport
from sparsec.compiler.batches import Batch
from sparsec.graph.steps import Steps
from sparsec.passes.context import Report
from sparsec.passes.strip import StripReport
from sparsec.passes.strip import as_dict as strip_as_dict

OF_SOME = ("projection_error", "rows", "instead_of", "passed_over", "widened")
"""What only some layers have: that were projected, have kernels for several numbers of rows, were timed, have faster
kernels that err too much, or could have had fewer bits."""


@dataclass(frozen=True)
class Outside:
    """A layer that runs without sparsec's kernels: its node's name and operator, and the reason."""

    layer: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Narrow:
    """An operator without weights that computes with fewer bits: its node's name and operator, and with which."""

    layer: str
    operator: str
    precision: str


@dataclass(frozen=True)
class Skipped:
    """Why the outputs were not compared."""

    skipped: str


@dataclass(frozen=True)
class Verification:
    """The comparison of the outputs with a reference's.

    Attributes:
        reference: what they were compared with.
        inputs: how many inputs of the model were tried.
        tolerance: the largest error allowed, None without a limit.
        relative_error: by output, its largest error relative to its largest magnitude.
        same_class: by output that holds scores of classes (`graph.classes`), the share of rows whose highest is the
            same.
        steps: of a quantised model, the comparison of its tensors in steps, or why there was none.
        spread: by how much the reference's own answers differ, with and without its optimisations, where a model that
            rounds to codes erred by more than its tolerance, which is then that.
        widened: whether the reference computed a model of 16-bit floats in float32.
        refused: why it was not onnxruntime that they were compared with.
        real: how many of the inputs were given, the others are random.

    """

    reference: str
    inputs: int
    tolerance: float | None
    relative_error: Mapping[str, float]
    same_class: Mapping[str, float]
    steps: Steps | str | None = None
    widened: bool = False
    refused: str = ""
    spread: float = 0.0
    real: int = 0


@dataclass(frozen=True, kw_only=True)
class CompileReport:
    """What a compilation has decided and found.

    Attributes:
        metadata: what the model's file says of itself.
        precision, optimize, codec: what was asked for.
        rates: where the rates come from that times were predicted with.
        layers: the plan.
        network_us: predicted microseconds of a whole inference, None where nothing predicts it.
        outside: the layers that are not in it.
        batch: how many rows run at once, None where there is but one.
        passes: what every pass did.
        verification: the comparison, None where none was asked for.
        narrow: the operators without weights that compute with fewer bits.

    """

    metadata: Mapping[str, object]
    precision: str
    optimize: str
    codec: str
    rates: str
    layers: tuple[LayerReport, ...]
    outside: tuple[Outside, ...]
    batch: Batch | None
    passes: tuple[Report, ...]
    verification: Verification | Skipped | None = None
    network_us: float | None = None
    narrow: tuple[Narrow, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The report in JSON's types."""
        strip = next((each for each in self.passes if isinstance(each, StripReport)), None)
        return {"metadata": dict(self.metadata), "precision": self.precision, "optimize": self.optimize,
                "codec": self.codec, "rates": self.rates, "layers": [_layer(each) for each in self.layers],
                "network_us": self.network_us, "narrow": [asdict(each) for each in self.narrow],
                "outside": [asdict(each) for each in self.outside],
                "batch": self.batch and self.batch.to_json(), "passes": [_pass(each) for each in self.passes],
                "verification": self.verification and asdict(self.verification),
                "strip": strip and strip_as_dict(strip)}


def _layer(row: LayerReport) -> dict[str, object]:
    """A layer's row; what only some layers have stands only there."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(row).items()
            if name not in OF_SOME or value is not None}


def _pass(report: Report) -> dict[str, object]:
    """What all passes tell; the strip pass tells more under a key of its own."""
    return {"name": report.name, "modified": report.modified, "counts": dict(report.counts),
            "notes": [asdict(note) for note in report.notes]}
