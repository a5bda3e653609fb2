"""What a pass is given and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from sparsec.graph.nodes import node_name
from sparsec.target import Target


@dataclass(frozen=True)
class Spared:
    """What a model is compiled without, as it has failed; each with the reason.

    Attributes:
        nodes: those that stay ONNX's.
        passes: those that are left out.
        interpreted: nodes that the target cannot run.

    """

    nodes: Mapping[str, str] = field(default_factory=dict)
    passes: Mapping[str, str] = field(default_factory=dict)
    interpreted: Mapping[str, str] = field(default_factory=dict)

    def reason(self, node: ir.Node) -> str | None:
        """Why a node, or what it became before, is left alone; None where it is not spared."""
        return _of(node, self.nodes)

    def why_interpreted(self, node: ir.Node) -> str | None:
        """Why a node is interpreted that the target could run by its sizes; None where it is not."""
        return _of(node, self.interpreted)


def _of(node: ir.Node, reasons: Mapping[str, str]) -> str | None:
    """The reason that is known of a node, or of what it became before."""
    name = node_name(node)
    later = f"{name}.", f"{name}@"  # the second in graphs of stages
    return next((why for each, why in reasons.items() if each == name or each.startswith(later)), None)


NOTHING = Spared()
"""What a model is compiled without at first."""


@dataclass(frozen=True)
class Context:
    """What the model is compiled for.

    Attributes:
        target: the target.
        strict_ieee: zeros of weights multiply what they meet, be it NaN.
        spared: what it is compiled without.
        precision: the number formats that layers may take, as `sparsec compile --precision` says it.
        compact: constants may take fewer bits where the precision allows it.
        tile: tokens of the tiles of regions that have no more and are no shorter than half of them; 0 leaves that open.
        threads: that one inference may use.

    """

    target: Target
    strict_ieee: bool = False
    spared: Spared = NOTHING
    precision: str = "fp32"
    compact: bool = False
    tile: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Note:
    """What a pass has to say about one node: for most passes, why the node was left alone."""

    node: str
    text: str


@dataclass(frozen=True)
class Report:
    """What a pass did.

    Attributes:
        name: the pass.
        modified: whether the graph changed.
        counts: how often each of its rewrites applied.
        notes: reasons, node by node.
        restated: whether outputs are compared with those of the model as this pass leaves it, not as it was given.

    """

    name: str
    modified: bool
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    restated: bool = field(default=False, kw_only=True)
