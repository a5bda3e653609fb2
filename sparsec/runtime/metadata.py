"""What a session tells of the model that its artifact was compiled from, as onnxruntime's sessions do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sparsec.errors import ArtifactError


@dataclass(frozen=True)
class ModelMetadata:
    """What the model's file said of itself.

    Attributes:
        producer_name: what wrote it.
        graph_name, domain: as the file has them.
        description, graph_description: of the model and of its graph.
        version: of the model.
        custom_metadata_map: what its maker noted, by name: the classes of a detector, for instance.

    """

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


def read(fields: Mapping[str, Any] | None) -> ModelMetadata:
    """What an artifact's report holds of it; empty where it knows nothing.

    Raises:
        ArtifactError: it has other types.

    """
    try:
        return msgspec.convert(fields or {}, ModelMetadata)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"the artifact's report contradicts itself ({error}); compile the model again") from error
