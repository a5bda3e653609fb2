"""Derivatives of a network's outputs by its weights, without PyTorch: reverse mode over ONNX's own operators."""
