"""The command line: each command parses its options, calls one public function of evalkit and prints the result.

Commands import what they need when they run, so that `--help` and shell completion do not wait for torch.
"""

from evalkit.cli.main import main as main
