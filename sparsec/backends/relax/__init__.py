"""What every backend shares: the lowering of a graph to Relax, ONNX operators in it, its passes, linking, timing."""
