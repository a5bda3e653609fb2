"""The page of supported operators, docs/operators.md: `python -m tests.conformance.operators` writes it.

What implements an operator follows from the registries; what of its node tests is right comes from running them on the
CPU, and whether a GPU takes it from lowering its first test for one, which needs no GPU.
"""

import collections
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import onnx

from sparsec.backends.cpu.lowerings import LOWERINGS
from sparsec.backends.cuda.lower import lower
from sparsec.backends.relax.importer import CONVERTERS, OPERATORS
from sparsec.errors import SparsecError, UnsupportedOperatorError
from sparsec.graph import reader
from sparsec.graph.verify import infer
from sparsec.passes import quantized
from sparsec.passes.context import Context
from sparsec.passes.quantized import WRITERS
from sparsec.runtime.evaluator import knows
from sparsec.target import resolve
from tests.conformance.cases import collect
from tests.conformance.run import classify

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
REGENERATE = "python -m tests.conformance.operators"
GPU = "cuda-sm90"
HEAD = f"""# Supported operators

Written by `{REGENERATE}`; `make conformance` runs ONNX's tests of whole suites.

Every operator takes its path per node: where all inputs are constants it is computed at compile time, by ONNX's
reference implementation. Where that is not so and nothing implements it for the target, the processor interprets it
between compiled parts, by that reference, and the report lists it (`--strict` refuses layers with weights, and on GPUs
everything, that runs so), as `sparsec explain` does. Compiling stops with a list of the nodes that it has no
implementation of.

- **sparsec**: its own kernel or expression of kernels. **TVM**: the converter of TVM's importer for ONNX.
  **function**: its definition in ONNX as a function of other operators. **constants**: only where all inputs are
  constants, as they are for Constant, Shape and Size wherever shapes are static.
- **CPU**: ONNX's node tests of static shapes that are right of those that there are, on `cpu`, which stands for
  `cpu-avx512`, `cpu-avx2`, `cpu-generic` and those of ARM: they differ in vectors, not in operators.
- **CUDA**: whether the first of these tests has kernels on `{GPU}` and the other GPUs, or the processor interprets
  it between the parts that have; "-" where it is refused, or there is no test.
- The target `eie` executes the layers with weights (MatMul, Gemm, Conv) and leaves all other operators to its host.
- onnxruntime's own operators (`com.microsoft`), which its optimiser and Olive leave, are written out in ONNX's and
  fused again: attention of every kind, layer norms, Gelus, fused products and convolutions, mixtures of experts
  (`passes/contributed`), and quantised ones (`passes/quantized`), in branches and loops, too. Sequences of known
  lengths become tensors; those whose length only the run tells are interpreted.
- Linear models of scikit-learn (`ai.onnx.ml`) are written out, too: LinearRegressor, LinearClassifier and SVMRegressor
  of linear kernels, Scaler, Normalizer, Imputer, Binarizer, ArrayFeatureExtractor. What remains of that domain (trees,
  other kernels, maps), operators of other domains, and strings are refused by name.
- SAME padding of dilated windows is what the output's size, ceil(input / stride), takes by the extent of the dilated
  kernel, as the specification says; onnxruntime leaves the dilation out in pools and refuses such convolutions.
- Numbers that are only cast to float16 or bfloat16 and back are rounded; elsewhere 16 bits become float32
  (`passes/widen`).
- If, Loop and Scan are written out where they make at most 2,000 nodes, and interpreted where they make more, where
  only the run tells how often they run, or where their branches differ in shape.

| operator | opset | by | CPU | CUDA |
|---|---|---|---|---|
"""


def schemas():
    """The newest definition of every operator of ONNX's own domain that is not on its way out."""
    found = {schema.name: schema for schema in onnx.defs.get_all_schemas() if not schema.domain}
    return [found[name] for name in sorted(found) if not found[name].deprecated]


def implemented_by(schema):
    """The word of the page's third column."""
    if schema.name in OPERATORS or schema.name in LOWERINGS or ("", schema.name) in WRITERS:
        return "sparsec"
    if schema.name in CONVERTERS:
        return "TVM"
    return "function" if schema.has_function or schema.has_context_dependent_function else "constants"


def on_gpu(case):
    """The word of the page's last column for a case of an operator."""
    try:
        model, target = reader.load(case.model), resolve(GPU)
        quantized.run(model, Context(target))
        infer(model, case.name)
        lower(model, target, "fp16")
    except UnsupportedOperatorError as error:
        return "processor" if error.nodes and knows(case.operator) else "-"
    except SparsecError:
        return "-"
    return "yes"


def main():
    os.environ["TVM_NUM_THREADS"] = "1"
    cases = collections.defaultdict(list)
    for case in collect("node"):
        if "expanded" not in case.name:
            cases[case.operator].append(case)
    rows = []
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("forkserver")) as pool:
        firsts = dict(zip(cases, pool.map(on_gpu, [each[0] for each in cases.values()]), strict=True))
        for schema in schemas():
            verdicts = [verdict for verdict, _ in pool.map(classify, cases.get(schema.name, []))]
            right = f"{verdicts.count('right')} of {len(verdicts)}" if verdicts else "-"
            words = schema.name, schema.since_version, implemented_by(schema), right, firsts.get(schema.name, "-")
            rows.append(f"| {' | '.join(map(str, words))} |\n")
    PAGE.write_text(HEAD + "".join(rows))


if __name__ == "__main__":
    main()
