"""Models in stages: what has static shapes is compiled, what has sizes that only the run tells is interpreted between.

The interpreter runs ONNX's operators on numpy; only artifacts with such stages load it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.errors import ArtifactError, InputError, SparsecError
from sparsec.machine.optional import needed

Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]
"""From arrays by name to the arrays of a stage's outputs; between interpreted stages, lists of them are sequences."""


class Part(Protocol):
    """What runs a compiled stage."""

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs."""

    def provide(self, calls: int) -> None:
        """Have what so many calls at once take."""


class Stages:
    """The stages of an artifact, ready to run one after the other; calls may overlap.

    Args:
        artifact: whose constants are the plan, as JSON, and then the bytes of every stage.
        open_part: from the bytes of a compiled stage to what runs it.

    Raises:
        ArtifactError: the plan contradicts itself.

    """

    def __init__(self, artifact: Artifact, open_part: Callable[[bytes], Part]) -> None:
        plan, *parts = artifact.constants()
        self._parts: list[Part] = []
        self._calls = 0

        def opened(data: bytes) -> Run:
            part = open_part(data)
            self._parts.append(part)
            return lambda feeds: part.run(None, feeds)

        try:
            fields = json.loads(plan.tobytes())
            self.results: list[str] = list(fields["results"])
            self._steps = [(list(stage["inputs"]), list(stage["outputs"]),
                            (interpret if stage["interpreted"] else opened)(part.tobytes()))
                           for stage, part in zip(fields["stages"], parts, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the artifact's stages contradict themselves ({error}); compile the model again",
                                ) from error

    def one_more(self) -> None:
        """Have what one more call at once takes."""
        self._calls += 1
        for part in self._parts:
            part.provide(self._calls)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs for inputs by the names that the stages know them by."""
        values = dict(feeds)
        for inputs, outputs, step in self._steps:
            results = step({name: values[name] for name in inputs})
            values.update(zip(outputs, results, strict=True))
        return [np.array(values[name]) for name in self.results]


def interpret(model: bytes) -> Run:
    """The function that interprets an ONNX model."""
    onnx = needed("onnx", "onnx", "an artifact with interpreted stages")
    from sparsec.runtime.evaluator import Evaluator

    evaluator = Evaluator(onnx.ModelProto.FromString(model))

    def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return evaluator.run(feeds)
        except (SparsecError, MemoryError):
            raise
        except Exception as error:  # what the reference raises where values do not fit together has no common base
            made = ", ".join(f"'{name}'" for name in evaluator.output_names)
            raise InputError(f"{made} cannot be computed for these inputs: {' '.join(str(error).split())}") from error

    return run
