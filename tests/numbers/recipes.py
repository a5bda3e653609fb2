"""A small graph for every operator of ONNX whose meaning or types changed since opset 7, by version (recipes.txt)."""

from collections import defaultdict
from pathlib import Path

import onnx
from onnx import defs

OLDEST = 7


def recipes():
    """The graphs of every operator, by the version from which on they are valid."""
    found = defaultdict(dict)
    for line in Path(__file__).with_name("recipes.txt").read_text().splitlines():
        if not line.startswith("#"):
            operators, since, text = line.split(" | ")
            for operator in operators.split():
                found[operator][int(since)] = text.replace("OP", operator)
    return found


def versions():
    """(operator, opset, graph) of every version since opset 7 that a recipe is there for."""
    known, texts = defaultdict(set), recipes()
    for schema in defs.get_all_schemas_with_history():
        if not schema.domain and not schema.deprecated:
            known[schema.name].add(max(schema.since_version, OLDEST))
    for operator in sorted(texts):
        for opset in sorted(known[operator]):
            fitting = [since for since in texts[operator] if since <= opset]
            if fitting:
                yield operator, opset, texts[operator][max(fitting)]


def model(opset, text):
    """The model of a graph, with the types of its outputs filled in."""
    proto = onnx.parser.parse_model(f'<ir_version: {10 if opset < 23 else 13}, opset_import: ["": {opset}]> g {text}')
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)
