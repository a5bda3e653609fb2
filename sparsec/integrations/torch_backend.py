"""`torch.compile(model, backend="sparsec")`: the graphs that PyTorch captures run in sessions.

PyTorch gives a backend a graph whose parameters are inputs among others. They become constants here, since sparsity is
in them. A graph is compiled when it is first called with tensors of some shapes, and again where a parameter has
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sparsec.errors import UsageError
from sparsec.integrations.torch_export import from_torch
from sparsec.runtime.session import InferenceSession

Run = Callable[..., tuple[torch.Tensor, ...]]


class Bound(torch.nn.Module):
    """A graph with some of its inputs bound: parameters as such, and sizes as numbers."""

    def __init__(self, graph: torch.fx.GraphModule, inputs: Sequence[Any], free: Sequence[int]) -> None:
        super().__init__()
        self.graph = graph
        self.free = tuple(free)
        self.others = {place: value for place, value in enumerate(inputs)
                       if place not in free and not isinstance(value, torch.Tensor)}
        self.places: dict[str, int] = {}
        for place, value in enumerate(inputs):
            if place not in free and isinstance(value, torch.Tensor):
                self.places[f"bound{place}"] = place
                self.register_buffer(f"bound{place}", value.detach())
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The graph's outputs for the free inputs in order."""
        bound = {place: getattr(self, name) for name, place in self.places.items()}
        whole = self.others | bound | dict(zip(self.free, inputs, strict=True))
        return self.graph(*(whole[place] for place in sorted(whole)))


def backend(graph: torch.fx.GraphModule, examples: Sequence[Any], *, options: Mapping[str, Any] | None = None,
            mode: str | None = None) -> Run:
    """What `torch.compile` calls with a graph.

    Args:
        graph: of operators, with parameters as inputs.
        examples: its inputs; those that PyTorch marks as a module's own become constants.
        options: those of `sparsec.compile`, as `torch.compile(…, options={…})` passes them.
        mode: that of `torch.compile`, which has no meaning here.

    Returns:
        A function of the graph's inputs.

    Raises:
        UsageError: `mode` is given.

    """
    if mode is not None:
        raise UsageError(f"torch.compile(mode='{mode}') has no meaning for sparsec; give options={{…}} as of "
                         "sparsec.compile")
    fixed = [place for place, value in enumerate(examples) if is_bound(value)]
    sessions: dict[Any, tuple[InferenceSession, Bound]] = {}

    def run(*inputs: Any) -> tuple[torch.Tensor, ...]:
        free = [place for place, value in enumerate(inputs) if isinstance(value, torch.Tensor) and place not in fixed]
        _refuse_gradients(inputs)
        key = tuple(_state(value, bound=place in fixed) for place, value in enumerate(inputs))
        tensors = [inputs[place] for place in free]
        if key not in sessions:
            bound = Bound(graph, inputs, free)  # kept, so that no other parameter comes to lie where one of the key did
            sessions[key] = InferenceSession(from_torch(bound, tuple(tensors), **options or {})), bound
        return _call(sessions[key][0], tensors)

    return run


def is_bound(value: Any) -> bool:
    """Whether an input of a captured graph is a module's parameter or buffer."""
    return isinstance(value, torch.nn.Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None


def _state(value: Any, *, bound: bool) -> Any:
    """What a compiled graph holds for: a parameter's contents, a tensor's shape and type, a number."""
    if not isinstance(value, torch.Tensor):
        return value
    if not bound:
        return tuple(value.shape), value.dtype
    version = 0 if value.is_inference() else value._version  # noqa: SLF001 - PyTorch has no public name for it
    return value.data_ptr(), version


def _refuse_gradients(inputs: Sequence[Any]) -> None:
    wanted = any(isinstance(value, torch.Tensor) and value.requires_grad for value in inputs)
    if wanted and torch.is_grad_enabled():
        raise UsageError("sparsec runs models and does not train them; call the module under torch.no_grad()")


def _call(session: InferenceSession, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs of a session for tensors in the order of its inputs."""
    names = [each.name for each in session.get_inputs()]
    feeds = {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
    return tuple(torch.from_numpy(array) for array in session.run(None, feeds))
