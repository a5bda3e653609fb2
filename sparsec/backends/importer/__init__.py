"""ONNX's own operators in plain layout, as Relax expressions."""

from sparsec.backends.importer.convert import convert

__all__ = ["convert"]
