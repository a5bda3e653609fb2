"""The Relax passes that every backend runs: before its kernels are scheduled, and after."""

from __future__ import annotations

import tvm
from tvm import relax


def fusing() -> list[tvm.transform.Pass]:
    """The passes after which a module consists of calls of fused, unscheduled kernels."""
    passes = relax.transform
    return [
        relax.backend.DispatchSampling(), relax.backend.DispatchSortScan(),
        passes.DecomposeOpsForInference(), passes.CanonicalizeBindings(),
        passes.LegalizeOps(), passes.AnnotateTIROpPattern(), passes.FoldConstant(),
        passes.RewriteDataflowReshape(),  # before fusion: a reshape is a view, inside a kernel it breaks up the loops
        passes.FuseOps(), passes.FuseTIR(), passes.DeadCodeElimination(),
    ]


def finishing(*allocating: tvm.transform.Pass) -> list[tvm.transform.Pass]:
    """The passes from calls of scheduled kernels to the virtual machine's code; `allocating` follow planned memory."""
    passes = relax.transform
    return [
        passes.ToNonDataflow(), passes.RemovePurityChecking(), passes.CallTIRRewrite(),
        passes.StaticPlanBlockMemory(), *allocating, passes.LowerAllocTensor(), passes.KillAfterLastUse(),
        passes.LowerRuntimeBuiltin(), passes.ComputePrimValue(), passes.VMShapeLower(), passes.AttachGlobalSymbol(),
    ]
