"""What a model's file says of itself: who made it, and what its maker noted."""

from __future__ import annotations

import onnx_ir as ir

OWN = "sparsec."
"""How the keys begin that sparsec adds to the notes."""


def metadata_of(model: ir.Model) -> dict[str, object]:
    """The fields of onnxruntime's `ModelMetadata` but for the producer's version, in JSON's types."""
    return {"producer_name": model.producer_name or "", "graph_name": model.graph.name or "",
            "domain": model.domain or "", "description": model.doc_string or "",
            "graph_description": model.graph.doc_string or "", "version": model.model_version or 0,
            "custom_metadata_map": {name: text for name, text in model.metadata_props.items()
                                    if not name.startswith(OWN)}}
