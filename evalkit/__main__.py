"""`python -m evalkit`, the same as the command `evalkit`."""

from evalkit.cli import main

main(prog_name="evalkit")
