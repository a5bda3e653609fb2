"""`python -m sparsec`."""

from sparsec.cli import main

main()
