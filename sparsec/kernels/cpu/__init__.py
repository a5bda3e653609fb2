from sparsec.machine import tvm_compiler as tvm_compiler  # before TVM is imported by name
