"""A model under Triton's Python backend: `sparsec bundle --triton` copies this file into the model's folder.

Triton gives the module `triton_python_backend_utils`, which is nowhere else; so it is imported when Triton calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsec.errors import SparsecError
from sparsec.runtime.session import InferenceSession

ARTIFACT, THREADS = "model.sparsec", "threads"
"""The file beside this one, and the parameter of Triton's configuration that sets the threads of an instance."""


class TritonPythonModel:
    """One instance of the model, as Triton's Python backend calls it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the artifact.

        Args:
            args: of Triton: the configuration as JSON and the folder of the model among them.

        Raises:
            SparsecError: the artifact does not open on this machine.

        """
        config = json.loads(args["model_config"])
        asked = config.get("parameters", {}).get(THREADS, {}).get("string_value")
        path = Path(args["model_repository"]) / args["model_version"] / ARTIFACT
        self._session = InferenceSession(path, int(asked) if asked else None)
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]
        self._rows = int(config.get("max_batch_size", 0)) > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response to each request, in order; those alike are rows of one run where the configuration has rows."""
        import triton_python_backend_utils as triton

        feeds = [{name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
                 for request in requests]
        groups: dict[Any, list[int]] = {}
        for place, each in enumerate(feeds):
            alike = tuple((array.dtype.str, array.shape[1:]) for array in each.values())
            groups.setdefault(alike if self._rows else place, []).append(place)
        found: dict[int, list[np.ndarray] | SparsecError] = {}
        for places in groups.values():
            found.update(zip(places, self._run([feeds[place] for place in places]), strict=True))
        return [self._response(triton, request, found[place]) for place, request in enumerate(requests)]

    def finalize(self) -> None:
        """Give back memory and threads."""
        self._session.close()

    def _run(self, group: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray] | SparsecError]:
        """The outputs of requests in one run, or of each by itself where that fails, so that one at fault fails."""
        joined = group[0] if len(group) == 1 else {
            name: np.concatenate([each[name] for each in group]) for name in self._inputs}
        try:
            outputs = self._session.run(None, joined)
        except SparsecError as error:
            return [error] if len(group) == 1 else [self._run([each])[0] for each in group]
        if len(group) == 1:
            return [outputs]
        ends = np.cumsum([len(each[self._inputs[0]]) for each in group])[:-1]
        return [list(parts) for parts in zip(*(np.split(array, ends) for array in outputs), strict=True)]

    def _response(self, triton: Any, request: Any, found: list[np.ndarray] | SparsecError) -> Any:
        """What Triton sends: the outputs that the request names, or why there are none."""
        if isinstance(found, SparsecError):
            return triton.InferenceResponse(
                output_tensors=[], error=triton.TritonError(str(found), triton.TritonError.INVALID_ARG))
        wanted = set(request.requested_output_names()) or set(self._outputs)
        return triton.InferenceResponse(output_tensors=[
            triton.Tensor(name, array) for name, array in zip(self._outputs, found, strict=True) if name in wanted])
