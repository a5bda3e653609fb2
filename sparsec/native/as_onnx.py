"""An artifact as an ONNX model of one node, which onnxruntime runs by the library of its operator and provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsec.artifact.file import Artifact
from sparsec.errors import UsageError
from sparsec.native.model_file import described_inputs, described_outputs, model_bytes

DOMAIN, OPERATOR = "sparsec.artifact", "Model"
"""The node's operator, as `RegisterCustomOps` registers it."""
PROVIDER = "SparsecExecutionProvider"
"""The plugin execution provider, which EPContext nodes name as their source."""
OPSET = 17
MOST_BYTES = (1 << 31) - (1 << 20)
"""Of a model in an ONNX file, which protobuf limits to 2 GiB."""


def as_onnx(artifact: Artifact, threads: int | None = None, *, ep_context: bool = False) -> bytes:
    """The ONNX file of an artifact.

    Its inputs and outputs are the artifact's. Sizes that the run tells, or that buckets differ in, are symbols.

    Args:
        artifact: compiled for processors.
        threads: those that a call may use; None for as many as it was compiled for and the machine has.
        ep_context: the node is onnxruntime's EPContext, which the execution provider runs, not sparsec's operator; its
            threads are the provider's option.

    Raises:
        UsageError: threads are given for an EPContext node, the artifact is none that runs without Python, or it is too
            large for an ONNX file.

    """
    import onnx
    from onnx import helper

    if ep_context and threads is not None:
        raise UsageError("the threads of an EPContext node are the execution provider's option, `threads`")
    data = model_bytes(artifact)
    if len(data) > MOST_BYTES:
        raise UsageError(f"the model has {len(data)} bytes, and an ONNX file holds at most {MOST_BYTES}; deploy it by "
                         "`sparsec bundle`")

    def infos(described: Sequence[dict[str, Any]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(each["name"], each["dtype"], [None if dim == "?" else dim for dim in each[
            "shape"]]) for each in described]

    inputs, outputs = infos(described_inputs(artifact)), infos(described_outputs(artifact))
    if ep_context:
        operator, domain = "EPContext", "com.microsoft"
        attributes: dict[str, Any] = {"main_context": 1, "embed_mode": 1, "ep_cache_context": data, "source": PROVIDER,
                                      "ep_sdk_version": artifact.manifest.sparsec}
    else:
        operator, domain = OPERATOR, DOMAIN
        attributes = {"model": data} if threads is None else {"model": data, "threads": threads}
    node = helper.make_node(operator, [each.name for each in inputs], [each.name for each in outputs], name="sparsec",
                            domain=domain, **attributes)
    graph = helper.make_graph([node], "sparsec", inputs, outputs)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(domain, 1)]
    made: bytes = helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="sparsec",
                                    ).SerializeToString(deterministic=True)
    return made
