"""The error family: every refusal of sparsec is a SparsecError whose message names the culprit and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ALSO_CALLED = {"cuda": "cuda-sm80", "gpu": "cuda-sm80", "nvidia": "cuda-sm80", "arm": "cpu-neon"}
"""What people call targets, which are not near by their letters."""


def printable(text: str) -> str:
    """A text on one line, without what terminals take for commands: names come from files, and may hold anything."""
    return text if text.isprintable() else "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def counted(number: int, what: str) -> str:
    """A number of things: "1 layer", "2 layers"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def meant(given: str, known: Iterable[str]) -> str:
    """A question after the nearest of the known names, such as "did you mean 'eie'? "; empty where none is near."""
    import difflib  # of refusals alone

    names = {name.lower(): name for name in known}
    also = ALSO_CALLED.get(given.lower())
    near = [also] if also in names else difflib.get_close_matches(given.lower(), names, 1)
    return f"did you mean '{names[near[0]]}'? " if near else ""


class SparsecError(Exception):
    """Base of every error that sparsec raises on purpose; the command line prints it in one line and exits with 1."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InternalError(SparsecError):
    """A defect of sparsec, not of the model; names the node, the stage and the versions. The command line exits with 3.

    Attributes:
        node: the graph of one node that shows it, a serialised ONNX model without the model's weights; empty if none.

    """

    node: bytes = b""


class UsageError(SparsecError):
    """The call itself is wrong (an unknown target, a malformed option); the command line exits with 2."""


class ModelError(SparsecError):
    """The model file cannot be read or is not valid ONNX; names the file and what is wrong in it."""


class ShapeError(SparsecError):
    """A dimension is unbound or a bound shape does not fit the model; names the input and the dimension."""


class UnsupportedOperatorError(SparsecError):
    """One or more nodes cannot be lowered for the target; lists every node with operator and opset.

    Attributes:
        nodes: the reason by the name of each node that the target has no implementation for.

    """

    def __init__(self, message: str, nodes: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.nodes = dict(nodes or {})


class InputError(SparsecError):
    """A feed of `InferenceSession.run` has the wrong name, shape or dtype, or holds an index outside a tensor."""


class ArtifactError(SparsecError):
    """An artifact is damaged, of another schema, or was compiled for a machine that this is not."""


class SignatureError(SparsecError):
    """A signature is missing or another's, or a key cannot be read; names the file."""


class VerificationError(SparsecError):
    """A compiled model's outputs differ from the dense model's by more than the tolerance."""


class FormatError(SparsecError):
    """A storage format rejects a weight or cannot decode its bytes; names the format and the reason."""


class CalibrationError(SparsecError):
    """A calibration or tuning file is damaged, or a measurement could not be made."""


class PruningError(SparsecError):
    """A pruning request cannot be met; names the criterion, quota or target and the reachable range."""


class CollapseError(PruningError):
    """Pruning cut every path from an input to an output; names the layer that collapsed."""


class SimulationError(SparsecError):
    """An accelerator cannot hold or run a layer; names the layer and the limit."""


class DeviceError(SparsecError):
    """A GPU fails, or its memory is too small; says what CUDA says, or how much is needed."""


class ToolchainError(SparsecError):
    """A compiler, driver or library that the target needs is missing; names what to install."""
