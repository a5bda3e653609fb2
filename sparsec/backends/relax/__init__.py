"""What every backend shares: the lowering of a graph to Relax, ONNX operators in it, its passes, linking, timing."""

from sparsec.machine import tvm_compiler as tvm_compiler  # before TVM is imported by name
