"""What `measure.sh` of a package needs of the machine's Python: says in one line what is missing, and exits with 1.

It imports nothing else of the package, so that it runs on any Python.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGES = {"numpy": "numpy", "torch": "torch", "tvm_ffi": "apache-tvm-ffi", "tvm": "apache-tvm"}
"""By module, the package that has it."""


def main():
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        name = Path(sys.executable).name
        sys.exit(f"measure.sh: {name} lacks {', '.join(missing)}; install them, or name a Python that has them: "
                 "PYTHON=/path/to/python sh measure.sh")


if __name__ == "__main__":
    main()
