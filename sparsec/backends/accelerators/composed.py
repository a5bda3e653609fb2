"""An accelerator put together from its parts: schemes, a mapping and its step-by-step twin, how units wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.activity import Activity
from sparsec.backends.accelerators.description import Accelerator, Execution, Footprint
from sparsec.backends.accelerators.layer import Layer, Operands
from sparsec.backends.accelerators.mapping import Event, Work
from sparsec.backends.accelerators.timing import Configuration, Discipline

Fibres = tuple[NDArray[np.int32], NDArray[np.int32]]


def filters_and_pixels(layer: Operands, _config: Configuration) -> Fibres:
    """What most convolutions are stored as: filters and pixels, channels innermost."""
    return layer.filters, layer.pixels


def filters_and_vectors(layer: Operands, _config: Configuration) -> Fibres:
    """The rows of both matrices of the product; convolutions are unfolded."""
    return layer.filters, layer.vectors


@dataclass(frozen=True, kw_only=True)
class Composed(Accelerator):
    """An accelerator whose groups of a layer run one after the other.

    Attributes:
        fibres: the operands as the fibres that the schemes encode: representation.
        work: what the units do: mapping.
        events: the same, one unit and step after the other, from decoded entries.
        timing: how they wait.
        together: how the work of several groups of a convolution becomes one, where they share the units; None where
            they run one after the other.

    """

    fibres: Callable[[Operands, Configuration], Fibres]
    work: Callable[[Operands, Configuration], Work]
    events: Callable[[Operands, Configuration], Iterator[Event]]
    timing: Discipline
    together: Callable[[Sequence[Work]], Work] | None = None

    def footprint(self, layer: Layer, config: Configuration) -> Footprint:
        """What the layer takes in its memories."""
        weights = activations = 0
        for group in layer.operands(config["weight_bits"], config["activation_bits"]):
            w, x = self.fibres(group, config)
            weights += self.weights.bits(w != 0, config["weight_bits"])
            activations += self.activations.bits(x != 0, config["activation_bits"])
        return Footprint(weights, activations)

    def measure(self, layer: Layer, config: Configuration) -> Activity:
        """What happens, group after group or with all of them side by side."""
        groups = layer.operands(config["weight_bits"], config["activation_bits"])
        works = [self.work(group, config) for group in groups]
        if self.together is not None:
            works = [self.together(works)]
        return sum((self.activity(work, config) for work in works), Activity())

    def activity(self, work: Work, config: Configuration) -> Activity:
        """What happens when the units do some work: the cycles of every multiplier, by cause."""
        timing, lanes = self.timing(work, config), config["multipliers"]
        products = {"useful": work.useful, "zeros": work.zeros, "padding": work.padding,
                    "discarded": work.discarded}
        products["fragments"] = lanes * work.busy - sum(products.values())
        waits = Counter({"overhead": config["units"] * work.overhead}) + Counter(timing.waits)
        spent = products | {cause: lanes * cycles for cause, cycles in waits.items()}
        return Activity(cycles=timing.cycles + work.overhead, spent=spent, accesses=work.accesses)

    def execute(self, layer: Layer, config: Configuration) -> Execution:
        """Compute a layer of one group step by step, from its stored operands."""
        (group,) = layer.operands(config["weight_bits"], config["activation_bits"])
        played = Played(np.zeros(group.shape, np.int64))
        for event in self.events(group, config):
            played.take(event)
        return Execution(played.outputs, group.reference(), self.activity(played.work(config["units"]), config))


@dataclass
class Played:
    """What the events of a layer add up to."""

    outputs: NDArray[np.int64]
    cycles: Counter[tuple[int, int]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    parts: dict[int, int] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Add the products of one event."""
        if event.unit < 0:
            self.counts["overhead"] += event.cycles
            return
        kept = event.outputs >= 0
        np.add.at(self.outputs.reshape(-1), event.outputs[kept], event.products[kept])
        self.cycles[event.step, event.unit] += event.cycles
        self.parts[event.step] = event.part
        zeros = event.products == 0
        self.counts["useful"] += int(np.count_nonzero(~zeros & kept))
        self.counts["discarded"] += int(np.count_nonzero(~zeros & ~kept))
        self.counts["zeros"] += int(np.count_nonzero(zeros)) - event.padding
        self.counts["padding"] += event.padding

    def work(self, units: int) -> Work:
        """The work of that many units, or of items where there are more."""
        width = max(units, 1 + max((unit for _, unit in self.cycles), default=0))
        table = np.zeros((1 + max((step for step, _ in self.cycles), default=-1), width), np.int64)
        for place, busy in self.cycles.items():
            table[place] = busy
        several = max(self.parts.values(), default=0) > 0
        parts = np.bincount(list(self.parts.values())) if several else np.zeros(0, np.int64)
        return Work(table, self.counts["useful"], self.counts["zeros"], self.counts["padding"],
                    self.counts["discarded"], overhead=self.counts["overhead"], parts=parts)
