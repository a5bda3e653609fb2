"""What fails at one place does not cost the model: it is compiled again without that, and the report says so.

A kernel or a pass with a defect is left out, and nodes that the target has no implementation for are interpreted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from sparsec.artifact.file import Artifact
from sparsec.compiler.failures import check_interrupt, where
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.report import Outside
from sparsec.errors import SparsecError, UnsupportedOperatorError
from sparsec.graph import reader
from sparsec.graph.nodes import node_name
from sparsec.passes.context import NOTHING, Spared

MOST = 8
"""What fails at more places than that is not one defect."""

Compile = Callable[[reader.Source, CompileOptions, Spared], Artifact]


def with_fallback(compile_with: Compile) -> Callable[[reader.Source, CompileOptions], Artifact]:
    """What compiles a model again without what has failed: layers, passes, operators; other failures are raised."""
    @functools.wraps(compile_with)
    def compile_one(model: reader.Source, options: CompileOptions) -> Artifact:
        spared = NOTHING
        while True:
            try:
                return compile_with(model, options, spared)
            except UnsupportedOperatorError as error:
                more = _interpreted(error, spared) if options.backend.sized else None
                if more is None:
                    raise
                spared = more
            except (SparsecError, OSError, MemoryError):
                raise
            except Exception as error:
                check_interrupt(error)
                more = _without(error, spared)
                if more is None:
                    raise
                spared = more

    return compile_one


def _interpreted(error: UnsupportedOperatorError, spared: Spared) -> Spared | None:
    """What to do without where the target lacks nodes; None where it was so before, or for other reasons."""
    new = {name: reason for name, reason in error.nodes.items() if name not in spared.interpreted}
    if not new or len(spared.interpreted) >= MOST:
        return None
    return replace(spared, interpreted={**spared.interpreted, **new})


def _without(error: Exception, spared: Spared) -> Spared | None:
    """What to do without beside what is spared, None where a failure cannot be avoided."""
    at = where(error.__traceback__)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    reason = f"sparsec failed on it, in {at.place} ({text}); please report it"
    if len(spared.nodes) + len(spared.passes) >= MOST:
        return None
    if at.node is not None and node_name(at.node) not in spared.nodes:
        return replace(spared, nodes={**spared.nodes, node_name(at.node): reason})
    if at.optional_pass and at.optional_pass not in spared.passes:
        return replace(spared, passes={**spared.passes, at.optional_pass: reason})
    return None


def defects(spared: Spared, known: Sequence[Outside]) -> list[Outside]:
    """The rows of a report for what was spared and is not among its layers outside already."""
    nodes = [Outside(name, "", reason) for name, reason in spared.nodes.items()
             if not any(each.reason.endswith(reason) for each in known)]
    return [*nodes, *(Outside(f"pass {name}", "", reason) for name, reason in spared.passes.items())]
