"""One run of a network forwards and backwards: the gradients of what its layers put out.

The outputs are taken at random, so that the mean of g g^T over runs is the network's Fisher matrix F. Classes, which
come from a Softmax, are drawn by their probabilities p, and g is the gradient of log p of the one drawn (the Fisher
matrix of what the network itself predicts, and no label is needed). Other outputs y get a direction of standard normal
numbers, over the root of the sum of y^2: F is the mean of J^T J, and what a change w of the weights makes of the
outputs, squared and relative to these, is w^T F w as long as it is small.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.errors import PruningError
from sparsec.graph import ort
from sparsec.graph.compare import Feeds
from sparsec.oneshot.gradients.derivatives import Node, back
from sparsec.oneshot.statistics import SMALLEST
from sparsec.oneshot.weights import constants

CLASSES = ("Softmax", "LogSoftmax")


@dataclass(frozen=True)
class Backward:
    """A network that can be run backwards.

    Attributes:
        model: with everything that a gradient needs as an output.
        session: of that.
        constants: the arrays of its constants.
        outputs: the names of the outputs that are floats.
        live: by name whether a value depends on one of the wanted values.

    """

    model: onnx.ModelProto
    session: Any
    constants: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    live: frozenset[str]

    @classmethod
    def to(cls, model: onnx.ModelProto, wanted: Collection[str]) -> Backward:
        """The network, to be run back to the outputs of some layers."""
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        known = {value.name for value in whole.graph.output}
        live = set(wanted)
        for node in whole.graph.node:
            if live.intersection(node.input):
                live.update(name for name in node.output if name)
        needed = {name for node in whole.graph.node if live.intersection([*node.input, *node.output])
                  for name in (*node.input, *node.output)}
        made = [name for node in whole.graph.node for name in node.output if name in needed and name not in known]
        whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
        arrays = {name: numpy_helper.to_array(tensor) for name, tensor in constants(whole.graph).items()}
        floats = tuple(value.name for value in model.graph.output if value.name in live)
        return cls(whole, ort.session(whole, optimized=False), arrays, floats, frozenset(live))

    def run(self, feeds: Feeds, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """All values of a run, and the gradients of those that are live.

        Raises:
            PruningError: an operator on the way has no derivative, or no output is a float.

        """
        names = [value.name for value in self.model.graph.output]
        values = dict(self.constants) | dict(feeds) | dict(zip(names, self.session.run(names, dict(feeds)),
                                                               strict=True))
        gradients = self._first(values, rng)
        opset = next(each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx"))
        for proto in reversed(self.model.graph.node):
            made = [gradients.get(name) for name in proto.output]
            if all(each is None for each in made) or not self.live.intersection(proto.input):
                continue
            node = Node(proto, opset, [values.get(name) for name in proto.input],
                        [values.get(name) for name in proto.output])
            for name, gradient in zip(proto.input, back(node, made), strict=False):
                if name in self.live and gradient is not None:
                    gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return values, gradients

    def _first(self, values: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The gradients to begin with."""
        makers = {name: node for node in self.model.graph.node for name in node.output}
        found = dict[str, np.ndarray]()
        for name in self.outputs:
            value = values[name]
            if value.dtype.kind != "f":
                continue
            maker = makers[name]
            if maker.op_type in CLASSES and maker.input[0] in self.live:
                found[maker.input[0]] = found.get(maker.input[0], 0) + _drawn(values[maker.input[0]], rng)
            else:
                size = float(np.sqrt(np.square(value.astype(np.float64)).sum()))
                found[name] = found.get(name, 0) + rng.standard_normal(value.shape) / max(size, SMALLEST)
        if not found:
            raise PruningError("no output is a float that depends on a weight, so that there are no gradients; give "
                               "--criterion obs")
        return found


def _drawn(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The gradient of log p of classes drawn by their probabilities p, which lie along the last axis longer than 1."""
    rows = logits.astype(np.float64).reshape(-1, next((size for size in reversed(logits.shape) if size > 1), 1))
    shares = np.exp(rows - rows.max(axis=1, keepdims=True))
    shares /= -shares.sum(axis=1, keepdims=True)
    shares[np.arange(len(rows)), (rows + rng.gumbel(size=rows.shape)).argmax(axis=1)] += 1
    return np.asarray(shares.reshape(logits.shape))
