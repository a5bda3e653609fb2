"""What a machine with a GPU and without a network needs, in one file: sparsec, the bench, and what `build` wrote.

The machine has Python with PyTorch, numpy and TVM's runtime. There `sh sparsec-gpu/measure.sh` measures, and writes
cuda.json and cuda.md beside itself.
"""

import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "sparsec-gpu"
MOST_BYTES, MINUTES = 60e6, 7
SCRIPT = f"""#!/bin/sh
# Measures what is packed here in less than eight minutes; a second call goes on where the first was interrupted.
cd "$(dirname "$0")" || exit 1
export PYTHONPATH="$PWD"
"${{PYTHON:-python3}}" bench/cuda_bench.py run cases -o cuda.json --minutes {MINUTES} "$@" &&
"${{PYTHON:-python3}}" bench/cuda_bench.py table cuda.json > cuda.md
"""


def pack(folder, output):
    """Write the archive; exits where it is larger than what is carried easily."""
    script = folder / "measure.sh"
    script.write_text(SCRIPT)
    sources = [path for part in ("sparsec", "bench") for path in sorted((ROOT / part).rglob("*"))
               if path.is_file() and "__pycache__" not in path.parts and "figures" not in path.parts]
    with tarfile.open(output, "w:gz") as archive:
        for path in sources:
            archive.add(path, f"{NAME}/{path.relative_to(ROOT)}")
        for path in sorted(folder.iterdir()):
            place = path.name if path == script else f"cases/{path.name}"
            archive.add(path, f"{NAME}/{place}")
    script.unlink()
    size = output.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"cuda_bench: {output} has {size / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f}; build the folder with "
                 "--products, or name smaller models")
    print(f"{output}: {size / 1e6:.1f} MB; where the GPU is: tar xf {output.name}; sh {NAME}/measure.sh")
