"""The Relax passes that every backend runs: before its kernels are scheduled, and after."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax, tirx

SCOPE = "pragma_scope"
"""What TVM's scatters hold several statements together by, and what its code generator warns of on the terminal."""


def fusing() -> list[tvm.transform.Pass]:
    """The passes after which a module consists of calls of fused, unscheduled kernels."""
    passes = relax.transform
    return [
        relax.backend.DispatchSampling(), relax.backend.DispatchSortScan(),
        passes.DecomposeOpsForInference(), passes.CanonicalizeBindings(),
        passes.LegalizeOps(), without_scopes(), passes.AnnotateTIROpPattern(), passes.FoldConstant(),
        passes.RewriteDataflowReshape(),  # before fusion: a reshape is a view, inside a kernel it breaks up the loops
        passes.FuseOps(), passes.FuseTIR(), passes.DeadCodeElimination(),
    ]


def without_scopes() -> tvm.transform.Pass:
    """The pass that leaves of every `SCOPE` what it holds."""
    @tvm.transform.module_pass(opt_level=0, name="sparsec.without_scopes")
    def apply(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        for name, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc):
                module[name] = function.with_body(tvm_ffi.structural_map(function.body, ((tirx.AttrStmt, _opened),)))
        return module

    return apply


def _opened(attribute: tirx.AttrStmt) -> tirx.Stmt:
    return attribute.body if attribute.attr_key == SCOPE else attribute


def finishing(*allocating: tvm.transform.Pass) -> list[tvm.transform.Pass]:
    """The passes from calls of scheduled kernels to the virtual machine's code; `allocating` follow planned memory."""
    passes = relax.transform
    return [
        passes.ToNonDataflow(), passes.RemovePurityChecking(), passes.CallTIRRewrite(),
        passes.StaticPlanBlockMemory(), *allocating, passes.LowerAllocTensor(), passes.KillAfterLastUse(),
        passes.LowerRuntimeBuiltin(), passes.ComputePrimValue(), passes.VMShapeLower(), passes.AttachGlobalSymbol(),
    ]
