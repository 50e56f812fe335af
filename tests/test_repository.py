"""The project about itself: imports point down and stay few, files are short, the README tells the truth."""

import ast
import configparser
import graphlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.cli import main
from evalkit.gan.recipes import RECIPES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs/guide.md").read_text()
API = (ROOT / "docs/api.md").read_text()

# from the top down; a module may import its own layer and those after it
LAYERS = [
    {"cli", "__main__"},
    {"reproduction", "environment"},
    {"report"},
    {"latent", "evaluation"},
    {"features"},
    {"encoders"},
    {"pretrained", "probes"},
    {"gan"},
    {"images"},
    {"results", "workspace", "solver"},
    {"pending_results"},
    {"artifacts", "npy", "batch_statistics", "neighbors", "runtime", "weights_files"},
    {"schemas", "verified", "locks"},
    {"files"},
    {"version", "errors", "settings"},
]


def layer_of(module):
    part = module.split(".")[1]
    return next(number for number, names in enumerate(LAYERS) if part in names)


def imports(path):
    yield from imports_below(ast.parse(path.read_text()))


def imports_below(tree):
    for node in ast.walk(tree):
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


def imports_at_import_time(path):
    """Modules of evalkit that are imported along with a file's module: not those of a function or of TYPE_CHECKING."""
    nodes = list(ast.parse(path.read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "evalkit":
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else node.module for name in submodules)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("evalkit."))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes += [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]


def is_module(name):
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_no_modules_import_each_other_in_a_circle():
    graph = {}
    for path in (ROOT / "evalkit").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = set(imports_at_import_time(path)) - {module}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_every_file_is_short_enough_to_read():
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "evalkit").rglob("*.py")}
    assert {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 420} == {}


def loaded_after(code):
    """The modules that a fresh interpreter has loaded after some code."""
    script = f"{code}\nimport sys; print('\\nLOADED', *sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return output.split("\nLOADED ")[1].split()


def test_help_of_every_command_needs_no_numerical_library():
    code = """
from click.testing import CliRunner
import click
from evalkit.cli import main

def show(command, *words):
    assert CliRunner().invoke(main, [*words, "--help"]).exit_code == 0
    for name, each in getattr(command, "commands", {}).items():
        show(each, *words, name)

show(main)
"""
    packages = {name.split(".")[0] for name in loaded_after(code)}
    assert packages & {"torch", "torchvision", "numpy", "pandas", "PIL", "scipy", "sklearn", "matplotlib"} == set()
    assert "click" in packages


def test_feature_sets_open_without_the_gan():
    modules = loaded_after("from evalkit import FeatureSet")
    assert "evalkit.features.featureset" in modules
    assert [name for name in modules if name.startswith("evalkit.gan")] == []


def test_every_public_name_is_reachable_and_documented():
    import evalkit

    public = {name: getattr(evalkit, name) for name in evalkit.__all__ if name != "__version__"}
    assert [name for name, value in public.items() if not inspect.getdoc(value)] == []
    assert sorted(evalkit.__all__) == sorted(set(evalkit.__all__))


def test_type_checkers_see_every_public_name():
    import evalkit

    (block,) = (n for n in ast.parse(Path(evalkit.__file__).read_text()).body if isinstance(n, ast.If))
    shown = {alias.name: node.module for node in block.body for alias in node.names}
    assert shown == {name: f"evalkit.{module}" for name, module in evalkit._HOMES.items()}


def test_the_repository_holds_no_lock_files():
    assert [str(path) for folder in ("pretrained", "benchmarks") for path in (ROOT / folder).rglob("*.lock")] == []


# what the command line imports beside the door: errors, the workspace, and settings that load no library
BESIDE_THE_DOOR = {
    "errors", "workspace", "settings", "version", "images.options", "features.options", "pretrained", "gan.recipes",
    "latent", "latent.settings", "evaluation.protocol",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "evalkit/cli").rglob("*.py")), ids=lambda path: path.stem)
def test_commands_call_public_functions_alone(path):
    tree = ast.parse(path.read_text())
    blocks = [
        node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    tree.body = [node for node in tree.body if node not in blocks]
    imported = {name.removeprefix("evalkit.") for name in imports_below(tree)}
    assert {name for name in imported if not name.startswith("cli")} <= BESIDE_THE_DOOR


def test_guide_names_every_command_and_recipe():
    assert [name for name in main.commands if f"`evalkit {name}`" not in GUIDE] == []
    assert [name for name in RECIPES if f"`{name}`" not in GUIDE] == []


@pytest.mark.parametrize("text", [README, API], ids=["README", "api"])
def test_python_examples_use_public_names(text):
    import evalkit

    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    attributes = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "evalkit"}
    assert {"extract", "evaluate"} <= used <= set(evalkit.__all__)


def test_the_example_of_the_api_runs_and_leaves_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", API, re.DOTALL)[1], names)
    assert names["evaluation"].value > 90  # a class is a darker channel
    names.clear()
    assert list(tmp_path.iterdir()) == []


def test_public_names_are_in_the_api_page():
    import evalkit

    assert [name for name in evalkit.__all__ if name != "__version__" and f"`{name}" not in API] == []


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    reserved = {"evaluation/metrics.py", "plugins.py", "suite/"}  # what comes next
    named = set(re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+(?:\.py|\.csv|/))`", text)) - reserved
    places = (ROOT, ROOT / "evalkit", ROOT / "evalkit/images")
    assert len(named) > 15
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_packages_are_named_in_the_map():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    packages = [path.parent.name for path in (ROOT / "evalkit").glob("*/__init__.py")]
    assert [name for name in packages if f"`{name}/`" not in text] == []


def test_package_data_covers_every_file_that_is_not_python():
    patterns = configparser.ConfigParser()
    patterns.read(ROOT / "setup.cfg")
    globs = [each.strip() for each in patterns["options.package_data"]["evalkit"].split(",")]
    covered = {path for each in globs for path in (ROOT / "evalkit").glob(each)}
    tracked = subprocess.run(["git", "ls-files", "evalkit"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    data = {ROOT / name for name in tracked if not name.endswith(".py") and (ROOT / name).exists()}
    assert sorted(str(path) for path in data - covered) == []
