"""The CPU's kernels for tensors without weights, which the importer of ONNX's operators asks the context for."""

from __future__ import annotations

from sparsec.backends.relax.context import Builders
from sparsec.kernels import tensors
from sparsec.kernels.cpu.codes import quantize
from sparsec.kernels.cpu.tensors import (
    batch_matmul,
    index,
    interleave,
    normalize,
    pool,
    recurrent,
    reduce,
    select,
    softmax,
    sorting,
    suppression,
    transpose,
)

KERNELS: Builders = {
    tensors.BatchMatmul: batch_matmul.build,
    tensors.CodesParams: quantize.build_flat,
    tensors.FlatRangeParams: quantize.build_flat_range,
    tensors.IndexParams: index.build,
    tensors.NormalizeParams: normalize.build,
    tensors.PoolParams: pool.build,
    tensors.RecurrentParams: recurrent.build,
    tensors.ReduceParams: reduce.build,
    tensors.SelectParams: select.build,
    tensors.SoftmaxParams: softmax.build,
    tensors.SortParams: sorting.build,
    tensors.SuppressionParams: suppression.build,
    tensors.TransposeParams: transpose.build,
    tensors.InterleaveParams: interleave.build,
}
"""By the class of their parameters."""
