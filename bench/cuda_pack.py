"""What a machine with a GPU and without a network needs, in one file: sparsec, the bench, and what `build` wrote.

The machine has Python with PyTorch, numpy and TVM's runtime (apache-tvm, apache-tvm-ffi), and NVIDIA's driver. There
`sh sparsec-gpu/measure.sh` measures, and writes cuda.json and cuda.md beside itself; README in the archive says so.
"""

import sys
import tarfile
from pathlib import Path

from cuda_needs import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
NAME = "sparsec-gpu"
MOST_BYTES, MINUTES = 60e6, 7
GRACE_S = 45  # that the last case may take beyond the time that is given
SCRIPT = f"""#!/bin/sh
# Measures what is packed here in less than eight minutes; see README.
cd "$(dirname "$0")" || exit 1
export PYTHONPATH="$PWD"
python="${{PYTHON:-python3}}"
"$python" bench/cuda_needs.py || exit
"$python" bench/cuda_bench.py run cases -o cuda.json --minutes {MINUTES} "$@" || exit
[ ! -f cuda.json ] || "$python" bench/cuda_bench.py table cuda.json > cuda.md
"""
README = f"""sparsec's kernels beside cuBLAS, cuSPARSELt and PyTorch, on a machine with an NVIDIA GPU and without a network.

It needs NVIDIA's driver, and a Python with {", ".join(PACKAGES.values())}, where PyTorch is
for CUDA 13 or nvidia-cuda-runtime is beside it. PYTHON names another one than python3. Nothing is installed or compiled.

    sh measure.sh             measures for {MINUTES} minutes at most, and the case under way for {GRACE_S} s more
    sh measure.sh --list      says what it would measure, and in which order
    sh measure.sh --rehearse  goes through the steps without a GPU

Figures come into cuda.json as they are measured, tables into cuda.md. A second call goes on where the first ended.
"""


def pack(folder, output):
    """Write the archive; exits where it is larger than what is carried easily."""
    beside = {folder / "measure.sh": SCRIPT, folder / "README": README}
    for path, text in beside.items():
        path.write_text(text)
    sources = [path for part in ("sparsec", "bench") for path in sorted((ROOT / part).rglob("*"))
               if path.is_file() and "__pycache__" not in path.parts and "figures" not in path.parts]
    with tarfile.open(output, "w:gz") as archive:
        for path in sources:
            archive.add(path, f"{NAME}/{path.relative_to(ROOT)}")
        for path in sorted(folder.iterdir()):
            place = path.name if path in beside else f"cases/{path.name}"
            archive.add(path, f"{NAME}/{place}")
    for path in beside:
        path.unlink()
    size = output.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"cuda_bench: {output} has {size / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f}; build the folder with "
                 "--products, or name smaller models")
    print(f"{output}: {size / 1e6:.1f} MB; where the GPU is: tar xf {output.name}; sh {NAME}/measure.sh")
