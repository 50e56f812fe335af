"""load_encoder: names of every kind, modules, encoders; against plain torch, and what is refused."""

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from evalkit import load_encoder
from evalkit.cli import main
from evalkit.encoders import ENCODERS
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.extract import extract
from evalkit.features.options import LayerSelection

CPU = {"device": "cpu", "precision": "float32"}
GUIDE = (Path(__file__).parent.parent / "docs/guide.md").read_text()


def rows(images, encoder, folder, selection=LayerSelection(), **options):
    return extract(images, encoder, out=folder, layers=selection, dtype="float32", **CPU | options).features


def as_input(images):
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


# -- modules


class Embedding(nn.Module):
    """A convolution, batch norm, dropout and a linear layer, with statistics that are not the initial ones."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm, self.head = nn.Conv2d(3, 6, 5, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.head(self.dropout(self.norm(self.conv(x)).relu().mean((2, 3))))


def test_reference_a_module_gives_the_features_of_a_plain_torch_loop(striped, tmp_path):
    module = Embedding()
    found = rows(striped, load_encoder(module, mean=0.5, std=(0.1, 0.2, 0.3)), tmp_path / "f")
    module.eval()
    mean, std = torch.tensor(0.5), torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    with torch.no_grad():
        expected = torch.cat([module((as_input(part) - mean) / std) for part in np.array_split(striped.images, 7)])
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)  # float32, sums of 75 terms


def test_loading_and_extraction_leave_the_module_as_it_was(striped, tmp_path):
    module = Embedding().train()
    module.norm.eval()
    module.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    rows(striped, load_encoder(module), tmp_path / "f", batch_norm="target")
    assert [m.training for m in (module, module.conv, module.norm, module.dropout)] == [True, True, False, True]
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])] == []
    assert torch.equal(torch.get_rng_state(), state)
    assert not module._forward_hooks


def test_a_module_is_named_after_its_class_and_hashed_with_its_preprocessing():
    module = Embedding()
    encoder = load_encoder(module)
    assert encoder.name == "Embedding"
    assert load_encoder(module, name="mine").name == "mine"
    assert load_encoder(Embedding()).sha256 == encoder.sha256
    assert load_encoder(module, size=64).sha256 != encoder.sha256
    module.conv.stride = (2, 2)
    assert load_encoder(module).sha256 != encoder.sha256


def test_a_modules_own_preprocessing_is_taken_and_changed_by_the_arguments():
    module = nn.Flatten()
    module.preprocessing = {"range": [-1, 1], "mean": [0.5]}
    preprocessing = load_encoder(module, size=20, mean=(0.1, 0.2, 0.3)).preprocessing
    assert preprocessing.range == (-1, 1)
    assert preprocessing.mean == (0.1, 0.2, 0.3)
    assert (preprocessing.size, preprocessing.resize) == (20, True)


def test_weights_from_a_file_go_into_a_copy_of_the_module(tmp_path):
    module, other = Embedding(), Embedding()
    with torch.no_grad():
        other.head.bias.fill_(7)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    encoder = load_encoder(module, weights=tmp_path / "other.pth")
    assert (encoder.network.module.head.bias == 7).all()
    assert not (module.head.bias == 7).any()
    with pytest.raises(ArtifactError, match="not the weights of this network"):
        load_encoder(nn.Linear(2, 2), weights=tmp_path / "other.pth")


def test_modules_in_half_precision_compute_in_float32():
    encoder = load_encoder(Embedding().half())
    assert {p.dtype for p in encoder.network.parameters()} == {torch.float32}


# -- encoders and changed preprocessing


def test_an_encoder_is_returned_as_it_is():
    encoder = load_encoder("pixels")
    assert load_encoder(encoder) is encoder
    assert load_encoder(encoder, name="raw") == replace(encoder, name="raw")


def test_changed_preprocessing_of_a_named_encoder_shows_in_its_name():
    encoder = load_encoder("pixels", size=16, range=(-1, 1))
    assert encoder.name == "pixels (size 16, range -1 1)"
    assert encoder.preprocessing.size == 16
    assert encoder.network(encoder.preprocessing(torch.zeros(1, 32, 32, 3)))["pixels"].shape == (1, 16 * 16 * 3)
    assert load_encoder("pixels", size=16, name="small").name == "small"


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    for arguments, match in (
        ({"encoder": 3}, "found int, expected a name, a path, a module or an Encoder"),
        ({"encoder": nn.Flatten(), "std": 0.0}, "expected range .low, high., and mean and std"),
        ({"encoder": "pixels", "range": (1, 0)}, "expected range .low, high."),
        ({"encoder": "pixels", "weights": "w.pth"}, "pixels: has its own weights, found weights w.pth; they go with"),
        ({"encoder": load_encoder("pixels"), "weights": "w.pth"}, "an Encoder has its weights already"),
        ({"encoder": "torchvision:resnet18:a.pth", "weights": "b.pth"}, "names weights a.pth, found weights b.pth"),
    ):
        with pytest.raises(EvalkitError, match=match) as refusal:
            load_encoder(**arguments)
        assert "\n" not in str(refusal.value)


def test_a_module_that_cannot_be_copied_is_refused():
    class Held(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("only leaf tensors\ncan be copied")

    with pytest.raises(EvalkitError, match="Held: the module cannot be copied .*; give FILE.py:FACTORY instead"):
        load_encoder(Held())


# -- names of every kind


def small_resnet():
    torch.manual_seed(0)
    return models.resnet18(weights=None)


def test_reference_resnet18_with_random_weights(striped, tmp_path, monkeypatch):
    """Against plain torchvision; at 64 pixels instead of 224 to be quick."""
    monkeypatch.setattr("evalkit.encoders.hub._SIZE", 64)
    encoder = load_encoder("torchvision:resnet18", home=tmp_path)
    few = type(striped)(
        "few", striped.images[:20], striped.labels[:20], ["a"] * 3, {"train": (0, 20)}, striped.manifest
    )
    found = rows(few, encoder, tmp_path / "f", LayerSelection(("layer4", "avgpool", "output"), pool_size=2))
    network = small_resnet().eval()
    transform = models.ResNet18_Weights.DEFAULT.transforms(crop_size=64, resize_size=64, antialias=True)
    stem = nn.Sequential(*list(network.children())[:-2])
    with torch.no_grad():
        maps = stem(transform(torch.from_numpy(np.array(few.images)).permute(0, 3, 1, 2)))
    expected = torch.cat([maps.flatten(1), maps.mean((2, 3)), maps.mean((2, 3))], 1).numpy()
    # torchvision resizes uint8 and rounds: half a level of 255, times 4 of 1/std, through 18 layers
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * np.abs(expected).max())
    assert found.shape == (20, 512 * 4 + 512 + 512)
    assert encoder.name == "torchvision:resnet18"


def test_weights_for_a_network_of_a_library_come_from_a_file(tmp_path, monkeypatch):
    network = small_resnet()
    with torch.no_grad():
        network.conv1.weight.fill_(0.5)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "mine.pth")
    for file in ("mine.safetensors", "mine.pth"):
        encoder = load_encoder(f"torchvision:resnet18:{tmp_path / file}", home=tmp_path)
        assert encoder.name == "torchvision:resnet18:mine"
        assert encoder.weights == str(tmp_path / file)
        assert (encoder.network.module.conv1.weight == 0.5).all()
        beside = load_encoder("torchvision:resnet18", weights=tmp_path / file)
        assert (beside.name, beside.sha256) == (encoder.name, encoder.sha256)


def test_timm_networks_have_their_own_preprocessing(tmp_path):
    pytest.importorskip("timm")
    encoder = load_encoder("timm:test_vit", home=tmp_path)
    size = encoder.preprocessing.size
    outputs = encoder.network(torch.zeros(2, 3, size, size))
    assert outputs["blocks.0"].ndim == 3
    assert outputs["output"].shape == (2, 64)
    assert encoder.preprocessing.mean == (0.5, 0.5, 0.5)
    with pytest.raises(EvalkitError, match="timm:test_vitt: no such network; nearest: test_vit"):
        load_encoder("timm:test_vitt", home=tmp_path)


MINE = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU())
    module.preprocessing = {"range": [-1, 1]}
    return module

def no_network():
    return 3

def failing():
    network().load_state_dict({"0.weight": torch.zeros(4, 3, 5, 5), "2.weight": torch.zeros(1)})
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_factories_by_file_and_by_module(mine, tmp_path, monkeypatch):
    encoder = load_encoder(f"{mine}:network", home=tmp_path)
    assert encoder.name == "mine.py:network"
    assert encoder.preprocessing.range == (-1, 1)
    monkeypatch.syspath_prepend(tmp_path)
    by_module = load_encoder("mine:network", home=tmp_path)
    assert by_module.name == "mine:network"
    assert by_module.sha256 == encoder.sha256
    mine.write_text(MINE + "\n# another\n")
    assert load_encoder(f"{mine}:network", home=tmp_path).sha256 != encoder.sha256


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_reference_programs_of_both_kinds(striped, tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU()).eval()
    extra = {"preprocessing.json": json.dumps({"range": [-1, 1]})}
    torch.jit.save(torch.jit.script(module), tmp_path / "net.pt", _extra_files=extra)
    sizes = ({0: torch.export.Dim("images")},)
    exported = torch.export.export(module, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=sizes)
    torch.export.save(exported, tmp_path / "net.pt2", extra_files=extra)
    with torch.no_grad():
        expected = module(as_input(striped.images) * 2 - 1).flatten(1).numpy()
    for file in ("net.pt", "net.pt2"):
        encoder = load_encoder(str(tmp_path / file), home=tmp_path)
        found = rows(striped, encoder, tmp_path / f"features-{file}", LayerSelection(pool="none"))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_every_kind_is_in_the_guide():
    assert [kind.form for kind in ENCODERS.values() if f"`{kind.form}`" not in GUIDE] == []


# -- the guide's example


def test_the_ten_lines_in_the_guide_are_an_encoder(striped, tmp_path):
    source = re.search(r"```python\n(# mine.py.*?)```", GUIDE, re.DOTALL)[1]
    assert len([line for line in source.splitlines() if line and not line.startswith("#")]) <= 10
    (tmp_path / "mine.py").write_text(source)
    run = ["--home", str(tmp_path), "extract", "--dataset", str(tmp_path / "striped"), "--device", "cpu"]
    run += ["--encoder", f"{tmp_path / 'mine.py'}:network"]
    listed = CliRunner().invoke(main, [*run, "--list-layers"])
    assert listed.exit_code == 0, listed.output
    assert re.search(r"\* output +256 x 7 x 7  C H W +4,096\n\* selected: 4,096 features per image", listed.stdout), (
        listed.stdout
    )
    assert not (tmp_path / "features").exists()
    done = CliRunner().invoke(main, run)
    assert done.stdout == "360 x 4,096 features of striped by mine.py:network\n", done.output
    assert "images to tensors: any size; range -1 to 1, mean 0, std 1" in done.stderr
    fitted = CliRunner().invoke(
        main, ["--home", str(tmp_path), "svm", "--labels-per-class", "20", "--num-test-subsets", "3"]
    )
    accuracy = re.search(r"test accuracy ([\d.]+) %", fitted.stdout)
    assert accuracy, fitted.output
    assert float(accuracy[1]) > 90  # the stripes' directions are easy


# -- what is refused


def test_weights_with_missing_or_surplus_names_are_refused(mine, tmp_path):
    state = small_resnet().state_dict()
    state["conv9.weight"] = state.pop("conv1.weight")
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ArtifactError, match=r"not the weights of this network \(missing: conv1.weight\)"):
        load_encoder(f"torchvision:resnet18:{tmp_path / 'odd.safetensors'}", home=tmp_path)
    with pytest.raises(
        EvalkitError, match='the call failed .* Missing key.* "0.bias".* Unexpected key.* "2.weight"'
    ) as refusal:
        load_encoder(f"{mine}:failing", home=tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_without_weights_are_refused(tmp_path, suffix):
    path = tmp_path / f"text.{suffix}"
    for content in (b"not weights", b"", b"\x80\x02cos\nsystem\n(S'true'\ntR."):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=f"text.{suffix}: not a file of weights") as refusal:
            load_encoder(f"torchvision:resnet18:{path}", home=tmp_path)
        assert "\n" not in str(refusal.value)
    with pytest.raises(ArtifactError, match="nowhere.pth: no such file"):
        load_encoder(f"torchvision:resnet18:{tmp_path / 'nowhere.pth'}", home=tmp_path)


def test_files_without_a_program_are_refused(tmp_path):
    for name in ("text.pt", "text.pt2"):
        (tmp_path / name).write_text("no program")
        with pytest.raises(EvalkitError, match="not a TorchScript or torch.export file"):
            load_encoder(str(tmp_path / name), home=tmp_path)
    torch.save(small_resnet().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(EvalkitError, match="holds no program; weights alone go with a network of a library"):
        load_encoder(str(tmp_path / "weights.pt"), home=tmp_path)


def test_a_program_with_a_fixed_number_of_images_is_refused(striped, tmp_path):
    exported = torch.export.export(nn.Conv2d(3, 2, 3), (torch.zeros(1, 3, 32, 32),))
    torch.export.save(exported, tmp_path / "one.pt2")
    with pytest.raises(EvalkitError, match="one.pt2: fails on 8 images .* expected a network for any number of image"):
        extract(striped, load_encoder(str(tmp_path / "one.pt2"), home=tmp_path), out=tmp_path / "f", **CPU)


def test_pickles_in_an_exported_program_are_refused_before_they_run(tmp_path):
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(1, 3),)), tmp_path / "good.pt2")
    hidden = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {hidden}'\ntR.".encode()
    for part, content in (("data/sample_inputs/model.pt", evil), ("data/aotinductor/model/x.so", b"library")):
        with zipfile.ZipFile(tmp_path / "good.pt2") as source, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as target:
            for name in source.namelist():
                if not name.endswith(part):
                    target.writestr(name, source.read(name))
            target.writestr(f"bad/{part}", content)
        with pytest.raises(EvalkitError, match=f"bad.pt2: its part bad/{part} would run code when loaded"):
            load_encoder(str(tmp_path / "bad.pt2"), home=tmp_path)
    assert not hidden.exists()


def test_unknown_names_of_every_kind_are_refused(mine, tmp_path):
    for name, match in (
        ("resnet", r"resnet: no such run; .*; encoders are RUN\[@UPDATES\], .*, FILE.pt or FILE.pt2"),
        ("torchvison:resnet18", "torchvison: cannot be imported .* encoders are RUN"),
        ("torchvision:resnet19", "torchvision:resnet19: no such network; nearest: resnet1"),
        ("torchvision:resnet18:BEST", "BEST: no such weights; choose a file or IMAGENET1K_V1"),
        ("nowhere.py:network", "nowhere.py: no such file, expected FILE.py:FACTORY"),
        (f"{mine}:net", "no function or class 'net'; it defines network, no_network, failing"),
        (f"{mine}:no_network", "returned int, expected a torch.nn.Module"),
        ("nowhere.pt", "nowhere.pt: no such file; expected a TorchScript"),
    ):
        with pytest.raises(EvalkitError, match=match) as refusal:
            load_encoder(name, home=tmp_path)
        assert "\n" not in str(refusal.value)
    mine.write_text(MINE.replace("[-1, 1]}", "[-1, 1], 'scale': 2}"))
    with pytest.raises(
        EvalkitError, match="unexpected keyword argument 'scale'; expected a dictionary with some of size"
    ):
        load_encoder(f"{mine}:network", home=tmp_path)


# -- what is imported


def imported_by(code):
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_feature_sets_import_neither_the_gan_nor_encoders():
    modules = imported_by("from evalkit import FeatureSet, load_features")
    assert [name for name in modules if name.startswith(("evalkit.gan", "evalkit.encoders", "torchvision"))] == []


def test_load_encoder_imports_a_kind_when_it_is_used():
    modules = imported_by("from evalkit import load_encoder")
    assert [name for name in modules if name.startswith(("evalkit.gan", "evalkit.pretrained", "torchvision"))] == []
