"""Programs on the C library of a bundle that is built; with SPARSEC_SANITIZE set, all of it by the sanitizers."""

import os
import subprocess

SANITIZE = bool(os.environ.get("SPARSEC_SANITIZE"))


def run(*command, environment=None):
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)


def link(compiler, *arguments, bundle, output):
    """Compile and link a program with the library of `bundle`, which tests/native/conftest.py describes."""
    flags = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined") if SANITIZE else ()
    built = run(compiler, "-Wall", "-Werror", *flags, *arguments, "-I", bundle / "digits" / "include", "-L",
                bundle / "build", "-lsparsec", f"-Wl,-rpath,{bundle / 'build'},-rpath-link,{bundle / 'build'}",
                "-o", output)
    assert built.returncode == 0, built.stderr
