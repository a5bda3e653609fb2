"""Reference networks, pruning and export to ONNX. What needs PyTorch is imported with the module that holds it."""

from sparsec.models.dataset import digits
from sparsec.models.squeezenet_onnx import squeezenet

__all__ = ["digits", "squeezenet"]
