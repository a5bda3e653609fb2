"""Pruning of ONNX files from samples, layer by layer and without training: numpy and onnxruntime alone."""
