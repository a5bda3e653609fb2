"""Refuses systems that sparsec does not run on before anything is built; all else stands in pyproject.toml."""

import sys

from setuptools import setup

if sys.platform != "linux":
    sys.exit(f"sparsec runs on Linux (x86-64 or aarch64) and this is {sys.platform}; under Windows install it in WSL "
             "2, elsewhere in a container. docs/deploy.md lists what is missing here")

setup()
