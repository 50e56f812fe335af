"""An own encoder's hash covers all that its outputs depend on, so that extract never returns features of other code."""

import collections
import importlib
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from evalkit import load_encoder
from evalkit.encoders.fingerprint import outputs_sha256
from evalkit.features.extract import extract


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """Writes files of Python into a folder and returns the hash of `FACTORY` there, as a new process would see it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def encoder(files):
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.partition(".")[0] in ("own_net", "own_package")]:
            monkeypatch.delitem(sys.modules, name)
        return load_encoder(f"{tmp_path / 'mine.py'}:network")

    return encoder


NET = """
import torch
from torch import nn
SCALE = 2.0
def helper(x, shift={shift}):
    return x + shift
class Net(nn.Module):
    def forward(self, x):
        return helper(x).flatten(1) * SCALE
"""
IMPORTS = {
    "from own_net import Net as network": "own_net",
    "import own_net\ndef network(): return own_net.Net()": "own_net",
    "def network():\n    import importlib\n    return importlib.import_module('own_net').Net()": "own_net",
    "from own_package.own_net import Net as network": "own_package/own_net",
    "from own_package.other import network": "own_package/own_net",
}
CHANGES = [("shift={shift}", "shift=1"), ("SCALE = 2.0", "SCALE = 3.0"), ("x + shift", "x - shift")]


@pytest.mark.parametrize("text", IMPORTS)
@pytest.mark.parametrize("change", CHANGES)
def test_code_of_other_files_is_in_the_hash(text, change, own_code):
    package = {"own_package/__init__": "", "own_package/other": "from .own_net import Net as network"}
    before, after = NET.format(shift=0), NET.replace(*change).format(shift=0)
    files = {"mine": text} | package
    first = own_code(files | {IMPORTS[text]: before}).sha256
    assert own_code(files | {IMPORTS[text]: before}).sha256 == first
    assert own_code(files | {IMPORTS[text]: after}).sha256 != first


class Holder(nn.Module):
    def __init__(self, **held):
        super().__init__()
        vars(self).update(held)

    def forward(self, x):
        return x.flatten(1)


def test_what_a_module_holds_is_in_the_hash():
    def adding(number):
        return lambda x: x + number

    class Config:
        def __init__(self, depth):
            self.depth = depth

    pairs = [
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (np.zeros(3), np.arange(3.0)),
        ([torch.zeros(1), torch.zeros(1)], [torch.zeros(1), torch.ones(1)]),
        ({"a": 1, "b": 2}, {"a": 2, "b": 2}),
        (0.5, 0.25),
        ("gelu", "relu"),
        ({1, 2}, {1, 3}),
        (adding(1), adding(2)),
        (torch.relu, torch.tanh),
        (collections.deque([1]), collections.deque([2])),
        (partial(torch.add, other=1), partial(torch.add, other=2)),
        (Config(1), Config(2)),
        (lambda x: x + 1, lambda x: x - 1),
        (torch.zeros(2, 2).to_sparse(), torch.eye(2).to_sparse()),
    ]
    for first, second in pairs:
        one, same, other = (load_encoder(Holder(held=each)).sha256 for each in (first, first, second))
        assert one == same, first
        assert one != other, first


def test_a_method_of_a_base_class_is_in_the_hash():
    def network(forward):
        base = type("Base", (Holder,), {"forward": forward})
        return type("Net", (base,), {})()

    hashes = [load_encoder(network(f)).sha256 for f in (lambda s, x: x.flatten(1), lambda s, x: -x.flatten(1))]
    assert hashes[0] != hashes[1]


READS = """
import os
from pathlib import Path
import numpy as np
from torch import nn
class network(nn.Module):
    def forward(self, x):
        return x.flatten(1) * float(Path({path!r}).read_text()) + float(os.environ.get("OWN_SHIFT", 0))
"""


def test_what_the_network_reads_while_it_runs_is_compared(own_code, striped, tmp_path, monkeypatch):
    (tmp_path / "scale.txt").write_text("1")
    encoder = own_code({"mine": READS.format(path=str(tmp_path / "scale.txt"))})
    out = {"out": tmp_path / "f", "device": "cpu", "dtype": "float32"}
    first = extract(striped, encoder, **out)
    values = np.array(first.features)
    assert extract(striped, encoder, **out).manifest["created"] == first.manifest["created"]
    (tmp_path / "scale.txt").write_text("0.5")
    np.testing.assert_allclose(extract(striped, encoder, **out).features, values / 2)
    monkeypatch.setenv("OWN_SHIFT", "3")
    np.testing.assert_allclose(extract(striped, encoder, **out).features, values / 2 + 3, rtol=1e-6)


def test_determinism_hashes_are_equal_in_every_process(tmp_path):
    """With and without compiled files, with another order of sets."""
    (tmp_path / "own_net.py").write_text(
        NET.format(shift=0) + "NAMES = {'a', 'b', 'c', 'd'}\nPAIR = ((), (1, 'x'), ())\n"
    )
    (tmp_path / "mine.py").write_text(
        "import own_net\nfrom torch import nn\nclass network(own_net.Net):\n    def forward(self, x):\n"
        "        return super().forward(x) if 'a' in own_net.NAMES and own_net.PAIR and 'q' not in {'x', 'y'} else x\n"
    )
    code = "from evalkit import load_encoder; from evalkit.encoders.fingerprint import outputs_sha256 as o\n"
    code += "e = load_encoder('mine.py:network'); print(e.sha256, o(e, 32, 32))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": str(seed)},
        ).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert len(printed) == 1
    assert len(printed.pop().split()) == 2


def test_outputs_are_hashed_for_own_code_only():
    assert outputs_sha256(load_encoder("pixels"), 8, 8) == ""
    hashes = {outputs_sha256(load_encoder(nn.Flatten(), mean=mean), 8, 8) for mean in (0.0, 0.5)}
    assert len(hashes) == 2
    assert "" not in hashes
