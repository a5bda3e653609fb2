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


def planning() -> list[tvm.transform.Pass]:
    """The passes from calls of scheduled kernels to kernels that are told where their results belong."""
    passes = relax.transform
    return [
        passes.ToNonDataflow(), passes.RemovePurityChecking(), passes.CallTIRRewrite(), passes.StaticPlanBlockMemory(),
    ]


def finishing() -> list[tvm.transform.Pass]:
    """The passes from there to the virtual machine's code."""
    passes = relax.transform
    return [
        passes.LowerAllocTensor(), passes.KillAfterLastUse(),
        passes.LowerRuntimeBuiltin(), passes.ComputePrimValue(), passes.VMShapeLower(), passes.AttachGlobalSymbol(),
    ]
