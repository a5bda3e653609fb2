"""An accelerator put together from its parts: schemes, a mapping and its step-by-step twin, how units wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.activity import Activity
from sparsec.backends.accelerators.description import Accelerator, Execution, Footprint
from sparsec.backends.accelerators.layer import Layer, Operands
from sparsec.backends.accelerators.mapping import Event, Work
from sparsec.backends.accelerators.timing import Configuration, Discipline

Fibres = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True, kw_only=True)
class Composed(Accelerator):
    """An accelerator whose groups of a layer run one after the other.

    Attributes:
        fibres: the operands as the fibres that the schemes encode: representation.
        work: what the units do: mapping.
        events: the same, one unit and step after the other, from decoded entries.
        timing: how they wait.

    """

    fibres: Callable[[Operands, Configuration], Fibres]
    work: Callable[[Operands, Configuration], Work]
    events: Callable[[Operands, Configuration], Iterator[Event]]
    timing: Discipline

    def footprint(self, layer: Layer, config: Configuration) -> Footprint:
        """What the layer takes in its memories."""
        weights = activations = 0
        for group in layer.operands(config["weight_bits"], config["activation_bits"]):
            w, x = self.fibres(group, config)
            weights += self.weights.bits(w != 0, config["weight_bits"])
            activations += self.activations.bits(x != 0, config["activation_bits"])
        return Footprint(weights, activations)

    def measure(self, layer: Layer, config: Configuration) -> Activity:
        """What happens, group after group."""
        groups = layer.operands(config["weight_bits"], config["activation_bits"])
        return sum((self.activity(self.work(group, config), config) for group in groups), Activity())

    def activity(self, work: Work, config: Configuration) -> Activity:
        """What happens when the units do some work: the cycles of every multiplier, by cause."""
        timing, lanes = self.timing(work, config), config["multipliers"]
        products = {"useful": work.useful, "zeros": work.zeros, "padding": work.padding}
        products["fragments"] = lanes * work.busy - sum(products.values())
        spent = products | {cause: lanes * cycles for cause, cycles in timing.waits.items()}
        return Activity(cycles=timing.cycles, spent=spent, accesses=work.accesses)

    def execute(self, layer: Layer, config: Configuration) -> Execution:
        """Compute a layer of one group step by step, from its stored operands."""
        (group,) = layer.operands(config["weight_bits"], config["activation_bits"])
        outputs = np.zeros(group.shape, np.int64)
        cycles: dict[tuple[int, int], int] = {}
        useful = zeros = padding = 0
        for event in self.events(group, config):
            kept = event.outputs >= 0
            np.add.at(outputs.reshape(-1), event.outputs[kept], event.products[kept])
            cycles[event.step, event.unit] = cycles.get((event.step, event.unit), 0) + event.cycles
            useful += int(np.count_nonzero(event.products))
            zeros += int(np.count_nonzero(event.products == 0)) - event.padding
            padding += event.padding
        table = np.zeros((1 + max((step for step, _ in cycles), default=-1), config["units"]), np.int64)
        for place, busy in cycles.items():
            table[place] = busy
        return Execution(outputs, group.reference(), self.activity(Work(table, useful, zeros, padding), config))
