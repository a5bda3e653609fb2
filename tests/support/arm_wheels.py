"""Download the wheels of TVM's runtime for aarch64 into `.arm`, for the tests of ARM: `make arm`."""

import shlex
import subprocess
import sys
from pathlib import Path

from sparsec.native.runtime_files import download

if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", *shlex.split(download("aarch64")), "-d", str(
        Path(__file__).parents[2] / ".arm")], check=False).returncode)
