"""The names of a model's inputs and outputs, which stay those of the file whatever happens to the graph in between.

An output that is an input, an initializer or another output gets a value of its own behind an Identity, so that every
pass may treat outputs alike; the names that the file gives them are kept by position in the model's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from itertools import count

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

INPUTS, OUTPUTS = "sparsec.inputs", "sparsec.outputs"
"""Keys of the metadata: the names in order, as JSON."""


def separate(model: ir.Model) -> None:
    """Gives every output a value of its own, in place, and keeps the names of the file."""
    graph = model.graph
    model.metadata_props[INPUTS] = json.dumps([value.name for value in graph.inputs])
    model.metadata_props[OUTPUTS] = json.dumps([value.name for value in graph.outputs])
    taken = {value.name for node in graph.all_nodes() for value in node.outputs} | {*graph.initializers}
    taken |= {value.name for value in graph.inputs}
    seen: set[ir.Value] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or value in seen:
            node = ir.node("Identity", [value])
            output = node.outputs[0]
            names = (f"{value.name}.output{number or ''}" for number in count())
            output.name = next(name for name in names if name not in taken)
            output.type, output.shape = value.type, value.shape
            taken.add(output.name)
            graph.append(node)
            graph.outputs[index] = output
        seen.add(value)


def input_names(model: ir.Model) -> list[str]:
    """The file's names of the inputs, in order."""
    return _names(model, INPUTS, list(model.graph.inputs))


def output_names(model: ir.Model) -> list[str]:
    """The file's names of the outputs, in order."""
    return _names(model, OUTPUTS, list(model.graph.outputs))


def _names(model: ir.Model, key: str, values: list[ir.Value]) -> list[str]:
    kept: list[str] = json.loads(model.metadata_props.get(key, "null")) or []
    return kept if len(kept) == len(values) else [str(value.name) for value in values]


def restore(model: ir.Model) -> None:
    """Undoes `separate`, in place: the outputs are named as in the file, and those that were inputs are inputs."""
    graph = model.graph
    named = dict(zip(input_names(model), graph.inputs, strict=True))
    for name, value in named.items():
        value.name = name
    for index, name in enumerate(output_names(model)):
        output = graph.outputs[index]
        if name not in named:
            if output in named.values():
                graph.append(node := ir.node("Identity", [output]))
                node.outputs[0].type, node.outputs[0].shape = output.type, output.shape
                output = node.outputs[0]
            _rename(graph, output, name)
            named[name] = output
        graph.outputs[index] = named[name]
    RemoveUnusedNodesPass()(model)
    for key in (INPUTS, OUTPUTS):
        model.metadata_props.pop(key, None)


def forget_shapes(model: ir.Model, *, kept: Collection[str]) -> None:
    """Takes the shapes of what lies between inputs and outputs away, in place, but for those of the names `kept`.

    Readers of the file infer them; those of custom operators' outputs, which nobody infers, stay.
    """
    graph = model.graph
    own = (value for node in graph for value in node.outputs if node.domain in ("", "ai.onnx"))
    for value in (*own, *graph.initializers.values()):
        if value.name not in kept and not value.is_graph_output():
            value.shape = value.type = None


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Gives a value a name; another value that has it, if there is one, gets a free one."""
    values = [*graph.initializers.values(), *(each for node in graph.all_nodes() for each in node.outputs)]
    names = {each.name for each in values}
    for holder in values:
        if holder.name == name and holder is not value:
            free = next(each for number in count() if (each := f"{name}.{number}") not in names)
            if holder.is_initializer():
                graph.initializers.pop(name)
                holder.name = free
                graph.initializers[free] = holder
            else:
                holder.name = free
    if value.name != name:
        value.name = name
