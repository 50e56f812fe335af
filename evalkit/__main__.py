"""`python -m evalkit`."""

from evalkit.cli import main

main(prog_name="evalkit")
