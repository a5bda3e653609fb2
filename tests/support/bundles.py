"""Programs on the C library of a bundle that is built."""

import subprocess


def run(*command, environment=None):
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)


def link(compiler, *arguments, bundle, output):
    """Compile and link a program with the library of `bundle`, which tests/native/conftest.py describes."""
    built = run(compiler, "-Wall", "-Werror", *arguments, "-I", bundle / "digits" / "include", "-L", bundle / "build",
                "-lsparsec", f"-Wl,-rpath,{bundle / 'build'},-rpath-link,{bundle / 'build'}", "-o", output)
    assert built.returncode == 0, built.stderr
