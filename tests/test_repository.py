"""The project about itself: layers import downwards only, the README tells the truth, deviations are marked."""

import ast
import re
from pathlib import Path

import pytest

from evalkit.cli import main
from evalkit.gan.recipes import RECIPES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

# from the top down; a module may import its own layer and those after it
LAYERS = [
    {"cli", "__main__"},
    {"reproduction"},
    {"report"},
    {"latent", "evaluation"},
    {"features"},
    {"encoders"},
    {"pretrained", "probes"},
    {"gan"},
    {"images"},
    {"results", "workspace", "solver"},
    {"artifacts", "batch_statistics", "runtime"},
    {"version", "errors", "settings"},
]


def layer_of(module):
    part = module.split(".")[1]
    return next(number for number, names in enumerate(LAYERS) if part in names)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evalkit."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("evalkit."))


@pytest.mark.parametrize("path", sorted((ROOT / "evalkit").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if module != "evalkit.__init__":
        above = [name for name in imports(path) if layer_of(name) < layer_of(module)]
        assert above == []


def test_readme_names_every_command_and_recipe():
    assert [name for name in main.commands if f"evalkit {name}" not in README] == []
    assert [name for name in RECIPES if f"`{name}`" not in README] == []


def test_readme_python_example_names_public_things():
    import evalkit

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        tree = ast.parse(block)
        names = [
            a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "evalkit" for a in n.names
        ]
        assert [name for name in names if not hasattr(evalkit, name)] == []


def test_public_names_are_in_the_readme():
    import evalkit

    assert [name for name in evalkit.__all__ if name != "__version__" and f"`{name}" not in README] == []
