"""An artifact as an ONNX model of one node, which onnxruntime runs by the library that registers its operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsec.artifact.file import Artifact
from sparsec.errors import UsageError
from sparsec.native.model_file import described_inputs, described_outputs, model_bytes

DOMAIN, OPERATOR = "sparsec.artifact", "Model"
"""The node's operator, as `RegisterCustomOps` registers it."""
OPSET = 17
MOST_BYTES = (1 << 31) - (1 << 20)
"""Of a model in an ONNX file, which protobuf limits to 2 GiB."""


def as_onnx(artifact: Artifact, threads: int | None = None) -> bytes:
    """The ONNX file of an artifact.

    Its inputs and outputs are the artifact's. Sizes that the run tells, or that buckets differ in, are symbols.

    Args:
        artifact: compiled for processors.
        threads: those that a call may use; None for as many as it was compiled for and the machine has.

    Raises:
        UsageError: the artifact is none that runs without Python, or too large for an ONNX file.

    """
    import onnx
    from onnx import helper

    data = model_bytes(artifact)
    if len(data) > MOST_BYTES:
        raise UsageError(f"the model has {len(data)} bytes, and an ONNX file holds at most {MOST_BYTES}; deploy it by "
                         "`sparsec bundle`")

    def infos(described: Sequence[dict[str, Any]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(each["name"], each["dtype"], [None if dim == "?" else dim for dim in each[
            "shape"]]) for each in described]

    inputs, outputs = infos(described_inputs(artifact)), infos(described_outputs(artifact))
    options: dict[str, Any] = {} if threads is None else {"threads": threads}
    node = helper.make_node(OPERATOR, [each.name for each in inputs], [each.name for each in outputs], name="sparsec",
                            domain=DOMAIN, model=data, **options)
    graph = helper.make_graph([node], "sparsec", inputs, outputs)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    made: bytes = helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="sparsec",
                                    ).SerializeToString(deterministic=True)
    return made
