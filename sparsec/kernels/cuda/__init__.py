"""Matrix products and attention on NVIDIA tensor cores: kernel families in TIR, with the packing of their weights.

    mma_sp                 2:4 weights, `mma.sp::ordered_metadata`
    mma_dense              any weight, `mma`
    rest                   2:4 weights and a few more, added by `mma`
    bitmap                 any pattern: stored sparse, multiplied dense
    wgmma_sp, wgmma_dense  the packings of the first two, multiplied by Hopper's warp groups
    cublaslt               any weight, by NVIDIA's library
    attention              softmax(Q K^T) V in one pass over the keys; no weight

All but the library share the stages of shared memory of `pipeline.py`, and products its skeleton: the weight is the
tensor cores' left operand, prepacked in the order in which lanes hold it; activations are staged in shared memory
(`staging.py`); `epilogue.py` finishes and stores the sums. `metadata.py` and `fragments.py` hold the layouts,
`tiles.py` the tiles that an architecture can run.
"""

from sparsec.machine import tvm_compiler as tvm_compiler  # before TVM is imported by name
