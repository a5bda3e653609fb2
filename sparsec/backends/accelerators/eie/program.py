"""A compiled network as the constants of an artifact, and back.

The constants are a JSON header, the planned graph as ONNX without the weights of the layers, and per layer the codebook
and, per segment, the packed entries and the pointers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.layer import Layer
from sparsec.backends.accelerators.eie.network import Network
from sparsec.backends.accelerators.eie.segments import Segment, split
from sparsec.backends.accelerators.fixed_point import FixedPoint
from sparsec.backends.accelerators.graphs import signature, without
from sparsec.backends.accelerators.vectors import is_product
from sparsec.backends.program import Program
from sparsec.formats import eie

ENTRY = "eie"


def pack(network: Network, arch: Architecture) -> Program:
    """The network as it lies in the accelerator's memories.

    Raises:
        SimulationError: a layer does not fit the configuration.

    """
    stored = {value.name for node in network.model.graph if is_product(node) for value in node.inputs[1:3]
              if value is not None}
    headers: list[dict[str, Any]] = []
    arrays: list[np.ndarray] = []
    for layer in network.layers.values():
        segments = split(layer.codes, layer.has_bias, arch, layer.name)
        headers.append(_header(layer, segments))
        arrays.append(layer.codebook)
        for segment in segments:
            pointers = segment.stored.pointers
            arrays.append(eie.pack(segment.stored, arch.codebook_bits))
            arrays.append(pointers.astype(np.min_scalar_type(pointers.max())))
    header = json.dumps({"architecture": asdict(arch), "layers": headers}).encode()
    constants = (np.frombuffer(header, np.uint8), np.frombuffer(without(network.model, stored), np.uint8), *arrays)
    graph = network.model.graph
    return Program(b"", ENTRY, constants, signature(graph.inputs), signature(graph.outputs))


def unpack(constants: Sequence[np.ndarray]) -> tuple[Network, Architecture]:
    """The network of an artifact's constants, and the configuration that it was compiled for."""
    arrays = iter(constants)
    header = json.loads(next(arrays).tobytes())
    model = ir.from_proto(onnx.ModelProto.FromString(next(arrays).tobytes()))
    arch = Architecture(**header["architecture"])
    layers = {fields["name"]: _layer(fields, arrays, arch) for fields in header["layers"]}
    return Network(model, layers), arch


def _header(layer: Layer, segments: Sequence[Segment]) -> dict[str, Any]:
    formats = {name: asdict(getattr(layer, name)) for name in ("source", "weight", "destination")}
    return {"name": layer.name, "kind": layer.kind, "bias": layer.bias, "relu": layer.relu, "groups": layer.groups,
            "shape": layer.codes.shape, "segments": [[each.rows, each.columns] for each in segments], **formats}


def _layer(fields: Mapping[str, Any], arrays: Iterator[np.ndarray], arch: Architecture) -> Layer:
    codebook = next(arrays)
    codes = np.zeros(fields["shape"], np.uint8)
    for rows, columns in fields["segments"]:
        block = codes[slice(*rows), slice(*columns)]
        words, pointers = next(arrays), next(arrays).astype(np.int64)
        mask = (1 << arch.index_bits) - 1
        block[...] = eie.decode(eie.InterleavedColumns(
            block.shape, arch.index_bits, (words >> arch.index_bits).astype(np.uint8), (words & mask).astype(np.uint8),
            pointers))  # fmt: skip
    formats = {name: FixedPoint(**fields[name]) for name in ("source", "weight", "destination")}
    return Layer(fields["name"], fields["kind"], codes, codebook, fields["bias"], relu=fields["relu"],
                 groups=fields["groups"], **formats)
