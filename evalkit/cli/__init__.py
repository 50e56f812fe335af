"""The command line: a thin shell over the Python API. Each command parses, calls one function and prints.

Commands import what they run only when they run, so that `--help` and shell completion do not wait for torch.
"""

from evalkit.cli.main import main as main
