"""The CUDA backend: sparse tensor cores for 2:4 weights, TVM's GPU schedules for the rest, one fat binary."""

from sparsec.machine import tvm_compiler as tvm_compiler  # before TVM is imported by name
