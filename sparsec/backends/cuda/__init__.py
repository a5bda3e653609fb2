"""The CUDA backend: sparse tensor cores for 2:4 weights, TVM's GPU schedules for the rest, one fat binary."""
