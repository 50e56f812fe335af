"""Encoders of every kind: taps against answers by hand and plain torch, batch norm, and what is refused."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from evalkit.cli import main
from evalkit.encoders import ENCODERS, Encoder, load_encoder
from evalkit.encoders.encoder import Preprocessing
from evalkit.encoders.module import HookedNetwork
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.batchnorm import MODES
from evalkit.features.encoder_setup import list_layers
from evalkit.features.extract import extract
from evalkit.features.pooling import LayerSelection, pool_to_grid
from evalkit.workspace import Workspace

CPU = {"device": "cpu", "precision": "float32"}
README = (Path(__file__).parent.parent / "README.md").read_text()


def own(module, preprocessing=None, **about):
    """A module as an encoder, without a file."""
    return Encoder("own", HookedNetwork(module), preprocessing or Preprocessing(), **about)


def rows(images, encoder, folder, taps=LayerSelection(), **options):
    return extract(images, encoder, folder, layer_selection=taps, dtype="float32", **CPU | options).features


def as_input(images):
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


class TwoBlocks(nn.Module):
    """Convolutions with batch norm, a ReLU in place and a sum in place, as ResNets have them."""

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.1, 0.3, generator=random)
            for norm in (self.bn1, self.bn2):
                norm.running_mean.normal_(generator=random)
                norm.running_var.uniform_(0.5, 2, generator=random)

    def forward(self, x):
        first = self.relu(self.bn1(self.conv1(x)))
        second = self.bn2(self.conv2(first))
        second += first
        return self.fc(self.relu(second).mean((2, 3)))


# -- the image-to-tensor step


def test_value_of_the_step_by_hand():
    pixels = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    step = Preprocessing(range=(-1, 1), mean=(0.0, 0.1, 0.5), std=(1.0, 2.0, 0.5))
    # -1, -0.6 and 1; then less the mean, by the deviation
    torch.testing.assert_close(step(pixels).flatten(), torch.tensor([-1.0, -0.35, 1.0]))


def test_reference_of_resizing_is_torchvisions():
    from torchvision.transforms.v2.functional import resize

    pixels = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = Preprocessing(size=20, resize=True)(pixels)
    theirs = resize(pixels.permute(0, 3, 1, 2).float(), [20, 20], antialias=True) / 255
    torch.testing.assert_close(ours, theirs)


def test_the_step_is_stamped(striped, tmp_path):
    features = extract(striped, own(nn.Flatten(), Preprocessing(range=(-1, 1))), tmp_path / "f", **CPU)
    step = {"size": None, "resize": False, "channels": 3, "range": [-1, 1], "mean": [0.0], "std": [1.0]}
    assert features.manifest["preprocessing"] == step


# -- taps


def test_value_of_average_pooling_and_of_whole_maps():
    ascending = torch.arange(16.0).view(1, 1, 4, 4)
    assert LayerSelection(pool_size=2, pool="average")(ascending).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert LayerSelection(pool_size=2, pool="none")(ascending).tolist() == [list(range(16))]
    assert LayerSelection(pool_size=8)(ascending).tolist() == [
        list(range(16))
    ]  # no cell is repeated to fill a larger grid


def test_value_of_tokens():
    tokens = torch.tensor([[[1.0, 2], [3, 6]]])
    assert LayerSelection(tokens="class")(tokens).tolist() == [[1, 2]] and LayerSelection()(tokens).tolist() == [[2, 4]]


def test_reference_taps_are_those_before_they_are_overwritten(striped, tmp_path):
    """bn2's output is summed into and rectified in place afterwards; its features are from before that."""
    module = TwoBlocks().eval()
    names = ("bn1", "conv2", "bn2", "output")
    found = rows(striped, own(module), tmp_path / "f", LayerSelection(names, pool="none"), batch_norm="running")
    with torch.no_grad():
        bn1 = module.bn1(module.conv1(as_input(striped.images)))
        conv2 = module.conv2(bn1.relu())
        expected = [bn1, conv2, module.bn2(conv2), module(as_input(striped.images))]
    expected = torch.cat([each.flatten(1) for each in expected], 1).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # float32, sums of 36 terms


def test_batch_norms_are_folded_where_that_changes_nothing(striped):
    network, sample = HookedNetwork(TwoBlocks().eval()), as_input(striped.images[:4])
    lowered = network.optimized_for_inference(["relu"], precision="float32", sample=sample).network.module
    assert isinstance(lowered.bn1, nn.Identity) and isinstance(lowered.bn2, nn.Identity)
    tapped = network.optimized_for_inference(["conv2"], precision="float32", sample=sample).network.module
    assert isinstance(tapped.bn1, nn.Identity) and isinstance(tapped.bn2, nn.BatchNorm2d)

    class Skips(TwoBlocks):
        def forward(self, x):
            maps = self.conv1(x)
            return self.bn1(maps) + maps

    kept = (
        HookedNetwork(Skips().eval())
        .optimized_for_inference(["output"], precision="float32", sample=sample)
        .network.module
    )
    assert isinstance(kept.bn1, nn.BatchNorm2d)
    torch.testing.assert_close(network(sample, ["output"])["output"], TwoBlocks().eval()(sample))  # itself untouched


def test_reference_target_statistics_of_any_module(striped, tmp_path):
    encoder = own(TwoBlocks())
    found = rows(striped, encoder, tmp_path / "f", LayerSelection(("bn1",), pool="none"), batch_norm="target")
    with torch.no_grad():
        maps = encoder.network.module.conv1(as_input(striped.split("train")))
    batches = [maps[:128], maps[128:]]
    mean = sum(batch.mean((0, 2, 3)) for batch in batches) / 2
    variance = sum(batch.var((0, 2, 3), correction=0) for batch in batches) / 2
    kept = load_file(tmp_path / "f" / "statistics.safetensors")
    torch.testing.assert_close(kept["bn1.mean"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept["bn1.variance"], variance, rtol=1e-4, atol=1e-5)
    assert found.shape == (360, 4 * 16 * 16)


@pytest.mark.parametrize("first", MODES)
def test_invariance_statistics_belong_to_one_extraction(striped, tmp_path, first):
    """An encoder that was used with one mode gives, with any other, the bytes that a fresh one gives."""
    used = own(TwoBlocks(), images_sha256=striped.sha256)
    rows(striped, used, tmp_path / "first", batch_norm=first, source_images=striped)
    for mode in MODES:
        fresh = own(TwoBlocks(), images_sha256=striped.sha256)
        found = [
            rows(striped, encoder, tmp_path / f"{name}-{mode}", batch_norm=mode, source_images=striped).tobytes()
            for name, encoder in (("used", used), ("fresh", fresh))
        ]
        assert found[0] == found[1], mode


def test_reference_batch_mode_normalises_each_128_images_of_a_split(striped, tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    found = rows(striped, own(module), tmp_path / "f", LayerSelection(("1",), pool="none"), batch_norm="batch")
    norm = nn.BatchNorm2d(2).train()
    with torch.no_grad():
        parts = [as_input(striped.images[a:b]) for a, b in ((0, 128), (128, 240), (240, 360))]
        expected = torch.cat([norm(module[0](part)) for part in parts]).flatten(1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


def test_the_name_says_what_differs(striped, tmp_path):
    taps = LayerSelection(("bn1", "bn2"), pool_size=2, pool="average")
    features = extract(striped, own(TwoBlocks()), tmp_path / "f", layer_selection=taps, batch_norm="target", **CPU)
    assert features.encoder == "own (target batch norm, bn1+bn2, grid 2, average pooled)"
    plain = extract(striped, own(TwoBlocks()), tmp_path / "g", **CPU)
    assert plain.encoder == "own" and [(x.name, x.length) for x in plain.layers] == [("output", 5)]


# -- maps whose channels come last


class BothLayouts(nn.Module):
    """A convolution's maps, channels first, and the same seen channels last; for any size, or for one alone."""

    def __init__(self, *, channels=5, only=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.only = nn.Conv2d(3, channels, 3, 4, 1), only
        self.back, self.same = Moved((0, 2, 3, 1)), nn.LayerNorm(channels)
        self.fixed, self.forth = Moved((0, 2, 3, 1)), nn.AdaptiveAvgPool2d(4)

    def forward(self, x):
        if self.only and x.shape[2] != self.only:
            raise ValueError(f"takes {self.only} pixels")
        maps = self.conv(x)
        return self.same(self.back(maps)), self.fixed(self.forth(maps))


class Moved(nn.Module):
    def __init__(self, axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


@pytest.mark.parametrize("only", [None, 32])
def test_value_of_maps_with_channels_last(striped, tmp_path, only):
    """The same numbers in the same columns as channels first: by growth with the image, or by equal sides."""
    module = BothLayouts(only=only)
    names = ("conv", "back", "forth", "fixed")
    features = extract(
        striped, own(module), tmp_path / "f", layer_selection=LayerSelection(names, pool_size=2), dtype="float32", **CPU
    )
    assert [(x.name, x.channels, x.grid, x.channels_last) for x in features.layers] == [
        ("conv", 5, 2, False), ("back", 5, 2, True), ("forth", 5, 2, False), ("fixed", 5, 2, True)
    ]  # fmt: skip
    conv, back, forth, fixed = np.split(features.features, 4, axis=1)
    assert conv.tobytes() == back.tobytes() and forth.tobytes() == fixed.tobytes()
    with torch.no_grad():
        expected = pool_to_grid(module.conv(as_input(striped.images)), 2)
    np.testing.assert_allclose(conv, expected.numpy(), rtol=0, atol=1e-5)


def test_layouts_that_equal_sides_would_leave_open(striped, tmp_path):
    """8 maps of 8 x 8: growth tells them apart; where the network takes one size, only `layout` can."""
    names = ("conv", "back")
    grown = extract(striped, own(BothLayouts(channels=8)), tmp_path / "a", layer_selection=LayerSelection(names), **CPU)
    assert [layer.channels_last for layer in grown.layers] == [False, True]
    one = BothLayouts(channels=8, only=32)
    assert not any(
        x.channels_last
        for x in extract(striped, own(one), tmp_path / "b", layer_selection=LayerSelection(names), **CPU).layers
    )
    told = extract(
        striped, own(one), tmp_path / "c", layer_selection=LayerSelection(("back",), layout="channels-last"), **CPU
    )
    assert told.layers[0].channels_last and told.encoder == "own (back, channels-last)"
    assert np.array_equal(told.features, grown.features[:, : 8 * 16])


def test_swin_is_read_with_channels_last(monkeypatch, tmp_path):
    monkeypatch.setattr("evalkit.encoders.hub._SIZE", 64)
    encoder = load_encoder("torchvision:swin_t", home=tmp_path)
    listed = list_layers(encoder, torch.zeros(2, 64, 64, 3, dtype=torch.uint8), LayerSelection())
    found = {layer.name: (shape, layer.channels, layer.channels_last) for layer, shape, _ in listed}
    assert found["features.0.0"] == ((96, 16, 16), 96, False)  # the convolution that makes patches
    assert found["features.1"] == ((16, 16, 96), 96, True) and found["features.7"] == ((2, 2, 768), 768, True)
    assert found["permute"] == ((768, 2, 2), 768, False) and found["output"] == ((768,), 768, False)


# -- kinds


def small_resnet(weights=None):
    torch.manual_seed(0)
    return models.resnet18(weights=weights)


def test_reference_resnet18_with_random_weights(striped, tmp_path, monkeypatch):
    """Against plain torchvision; at 64 pixels instead of 224 to be quick."""
    monkeypatch.setattr("evalkit.encoders.hub._SIZE", 64)
    encoder = load_encoder("torchvision:resnet18", home=tmp_path)
    few = type(striped)(
        "few", striped.images[:20], striped.labels[:20], ["a"] * 3, {"train": (0, 20)}, striped.manifest
    )
    found = rows(few, encoder, tmp_path / "f", LayerSelection(("layer4", "avgpool", "output"), pool_size=2))
    network = small_resnet().eval()
    step = models.ResNet18_Weights.DEFAULT.transforms(crop_size=64, resize_size=64, antialias=True)
    stem = nn.Sequential(*list(network.children())[:-2])
    with torch.no_grad():
        maps = stem(step(torch.from_numpy(np.array(few.images)).permute(0, 3, 1, 2)))
    expected = torch.cat([maps.flatten(1), maps.mean((2, 3)), maps.mean((2, 3))], 1).numpy()
    # torchvision resizes uint8 and rounds: half a level of 255, times 4 of 1/std, through 18 layers
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * np.abs(expected).max())
    assert found.shape == (20, 512 * 4 + 512 + 512) and encoder.name == "torchvision:resnet18"


def test_weights_of_a_library_come_from_a_file(tmp_path, monkeypatch):
    network = small_resnet()
    with torch.no_grad():
        network.conv1.weight.fill_(0.5)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "mine.pth")
    for file in ("mine.safetensors", "mine.pth"):
        encoder = load_encoder(f"torchvision:resnet18:{tmp_path / file}", home=tmp_path)
        assert encoder.name == "torchvision:resnet18:mine" and encoder.weights == str(tmp_path / file)
        assert (encoder.network.module.conv1.weight == 0.5).all()


def test_timm_networks_bring_their_step(tmp_path):
    pytest.importorskip("timm")
    encoder = load_encoder("timm:test_vit", home=tmp_path)
    size = encoder.preprocessing.size
    outputs = encoder.network(torch.zeros(2, 3, size, size))
    assert outputs["blocks.0"].ndim == 3 and outputs["output"].shape == (2, 64)
    assert encoder.preprocessing.mean == (0.5, 0.5, 0.5)
    with pytest.raises(EvalkitError, match="timm:test_vitt: no such network; nearest: test_vit"):
        load_encoder("timm:test_vitt", home=tmp_path)


MINE = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU())
    made.preprocessing = {"range": [-1, 1]}
    return made

def no_network():
    return 3

def failing():
    network().load_state_dict({"0.weight": torch.zeros(4, 3, 5, 5), "2.weight": torch.zeros(1)})
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_own_code_by_file_and_by_module(mine, tmp_path, monkeypatch):
    encoder = load_encoder(f"{mine}:network", home=tmp_path)
    assert encoder.name == "mine.py:network" and encoder.preprocessing.range == (-1, 1)
    monkeypatch.syspath_prepend(tmp_path)
    by_module = load_encoder("mine:network", home=tmp_path)
    assert by_module.name == "mine:network" and by_module.sha256 == encoder.sha256
    mine.write_text(MINE + "\n# another\n")
    assert load_encoder(f"{mine}:network", home=tmp_path).sha256 != encoder.sha256


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_reference_programs_of_both_kinds(striped, tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU()).eval()
    step = {"preprocessing.json": json.dumps({"range": [-1, 1]})}
    torch.jit.save(torch.jit.script(module), tmp_path / "net.pt", _extra_files=step)
    sizes = ({0: torch.export.Dim("images")},)
    exported = torch.export.export(module, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=sizes)
    torch.export.save(exported, tmp_path / "net.pt2", extra_files=step)
    with torch.no_grad():
        expected = module(as_input(striped.images) * 2 - 1).flatten(1).numpy()
    for file in ("net.pt", "net.pt2"):
        encoder = load_encoder(str(tmp_path / file), home=tmp_path)
        found = rows(striped, encoder, tmp_path / f"features-{file}", LayerSelection(pool="none"))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_every_kind_is_in_the_readme_and_in_this_file():
    assert [kind.form for kind in ENCODERS.values() if f"`{kind.form}`" not in README] == []


# -- the README's example


def test_the_readmes_module_of_ten_lines(striped, tmp_path):
    source = re.search(r"```python\n(# mine.py.*?)```", README, re.DOTALL)[1]
    assert len([line for line in source.splitlines() if line and not line.startswith("#")]) <= 10
    (tmp_path / "mine.py").write_text(source)
    run = ["--home", str(tmp_path), "extract", "--dataset", str(tmp_path / "striped"), "--device", "cpu"]
    run += ["--encoder", f"{tmp_path / 'mine.py'}:network"]
    listed = CliRunner().invoke(main, [*run, "--list-layers"])
    assert listed.exit_code == 0, listed.output
    assert re.search(r"\* output +256 x 7 x 7  C H W +4,096\n\* taken: 4,096 features an image", listed.stdout), (
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
    assert accuracy and float(accuracy[1]) > 90, fitted.output  # the stripes' directions are easy


# -- what is refused


def refused(images, module, match, tmp_path, taps=LayerSelection(), **options):
    with pytest.raises(EvalkitError, match=match) as found:
        rows(images, own(module), tmp_path / "refused", taps, **options)
    assert "\n" not in str(found.value) and not (tmp_path / "refused").exists()


def test_a_layer_that_does_not_exist(striped, tmp_path):
    refused(
        striped, TwoBlocks(), "own: no layer 'conv3'; nearest: conv2, conv1", tmp_path, LayerSelection(("bn1", "conv3"))
    )


def test_an_output_that_changes_with_the_batch(striped, tmp_path):
    norm = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    refused(striped, norm, "layer output of an image changes by .* normalised over the batch", tmp_path)

    class Noisy(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x.flatten(1), training=True)

    refused(striped, Noisy(), "layer output of an image changes by .* or from run to run", tmp_path)
    assert rows(striped, own(norm), tmp_path / "batch", batch_norm="batch").shape == (360, 64)  # asked for


class Broken(nn.Module):
    def forward(self, x):
        dark = x.flatten(1).mean(1, keepdim=True) < self.below
        return torch.where(dark, torch.nan, x.flatten(1))


def test_an_encoder_that_gives_no_numbers(striped, tmp_path):
    module = Broken()
    module.below = 2.0
    refused(striped, module, "layer output gives nan, expected finite numbers; .* range 0 to 1", tmp_path)
    means = striped.images.reshape(360, -1).mean(1) / 255
    module.below = float(np.sort(means)[0] + 1e-6)
    worst = int(means.argmin())
    assert worst >= 8  # the first images, which are tried, are in order
    refused(striped, module, rf"feature 0 \(layer output\) of image {worst} is nan as float32", tmp_path)


def test_numbers_too_large_for_float16_are_refused(striped, tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(1, bias=False))
    module(torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        module[1].weight.fill_(1e3)
    with pytest.raises(ArtifactError, match=r"is inf as float16; .* \(--dtype float32\)"):
        extract(striped, own(module), tmp_path / "f", **CPU)


def test_a_image_size_it_cannot_take(striped, tmp_path):
    with pytest.raises(EvalkitError, match="own takes images of 64x64, these are 32x32; prepare them with --size 64"):
        extract(striped, own(nn.Flatten(), Preprocessing(size=64)), tmp_path / "f", **CPU)
    refused(striped, nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "own: fails on 8 images of 32x32", tmp_path)


def test_networks_that_return_nothing_usable(striped, tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return "no tensor"

    refused(striped, Odd(), "returns no tensor .* name its layers, see --list-layers", tmp_path)


def test_weights_with_missing_or_surplus_names(mine, tmp_path):
    state = small_resnet().state_dict()
    state["conv9.weight"] = state.pop("conv1.weight")
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ArtifactError, match=r"missing: conv1.weight; surplus: conv9.weight"):
        load_encoder(f"torchvision:resnet18:{tmp_path / 'odd.safetensors'}", home=tmp_path)
    with pytest.raises(
        EvalkitError, match='the call failed .* Missing key.* "0.bias".* Unexpected key.* "2.weight"'
    ) as e:
        load_encoder(f"{mine}:failing", home=tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_that_holds_no_weights(tmp_path, suffix):
    path = tmp_path / f"text.{suffix}"
    for content in (b"not weights", b"", b"\x80\x02cos\nsystem\n(S'true'\ntR."):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=f"text.{suffix}: not a file of weights") as found:
            load_encoder(f"torchvision:resnet18:{path}", home=tmp_path)
        assert "\n" not in str(found.value)
    with pytest.raises(ArtifactError, match="nowhere.pth: no such file"):
        load_encoder(f"torchvision:resnet18:{tmp_path / 'nowhere.pth'}", home=tmp_path)


def test_files_that_hold_no_program(tmp_path):
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
        extract(striped, load_encoder(str(tmp_path / "one.pt2"), home=tmp_path), tmp_path / "f", **CPU)


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


def test_unknown_names_of_every_kind(mine, tmp_path):
    workspace = Workspace(tmp_path)
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
        with pytest.raises(EvalkitError, match=match) as found:
            load_encoder(name, home=workspace)
        assert "\n" not in str(found.value)
    mine.write_text(MINE.replace("[-1, 1]}", "[-1, 1], 'scale': 2}"))
    with pytest.raises(
        EvalkitError, match="unexpected keyword argument 'scale'; expected a dictionary with some of size"
    ):
        load_encoder(f"{mine}:network", home=workspace)
