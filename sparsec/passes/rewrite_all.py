"""onnxscript's rewriting of a graph as its `optimize_ir` does it, but in time that is linear in the number of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

ELEMENTS_LIMIT = 1 << 31
ITERATIONS = 4  # until nothing changes, in practice


class _Rooted:
    """A rule whose pattern ends in several nodes, tried at nodes of the first one's operator.

    onnxscript tries it at every node, for which it looks at all nodes of the graph.
    """

    def __init__(self, rule: Any, root: tuple[str, str, str]) -> None:
        self._rule, self._root = rule, root

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def try_rewrite(self, model: ir.Model, graph: ir.Graph, node: ir.Node, **options: Any) -> Any:
        """What takes the place of the nodes that the pattern ends in, None where it does not match."""
        return self._rule.try_rewrite(model, graph, node, **options) if node.op_identifier() == self._root else None


def rewrite_all(model: ir.Model, allows: Callable[[ir.Node], bool | None]) -> None:
    """Fold constants and apply onnxscript's rules, in place.

    Args:
        model: the model; its functions are written out.
        allows: whether a node of constants folds; None leaves it to onnxscript.

    Raises:
        RuntimeError: a node's constants do not evaluate.

    """
    from onnxscript import rewriter
    from onnxscript.optimizer import fold_constants_ir

    rules = [_rooted(rule) for rule in rewriter._DEFAULT_REWRITE_RULES]  # noqa: SLF001 - there is no other name for it
    unused: list[Any] = [make() for make in (common.RemoveUnusedNodesPass, common.RemoveUnusedFunctionsPass,
                                             common.RemoveUnusedOpsetsPass)]
    common.InlinePass()(model)
    for _ in range(ITERATIONS):
        folded = fold_constants_ir(model, onnx_shape_inference=True, input_size_limit=ELEMENTS_LIMIT,
                                   output_size_limit=ELEMENTS_LIMIT, should_fold=allows)
        steps = [each(model) for each in (rewriter.RewritePass(rules), *unused)]
        if not any(each.modified for each in (folded, *steps)):
            break
    for last in (common.RemoveUnusedNodesPass(), common.LiftConstantsToInitializersPass(lift_all_constants=True,
                 size_limit=0), common.LiftSubgraphInitializersToMainGraphPass(), common.DeduplicateInitializersPass(),
                 common.CommonSubexpressionEliminationPass(), common.OutputFixPass(), common.NameFixPass()):
        last(model)


def _rooted(rule: Any) -> Any:
    pattern = rule._target_pattern  # noqa: SLF001 - rules do not tell it otherwise
    if pattern.has_single_output_node:
        return rule
    return _Rooted(rule, pattern.output_nodes[0].op_identifier())
