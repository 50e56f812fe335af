"""Any module as an encoder: preprocessing, layers and batch norm against plain torch, and what is refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from evalkit.encoders import Encoder, load_encoder
from evalkit.encoders.encoder import Preprocessing
from evalkit.encoders.module import HookedNetwork
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.batchnorm import MODES
from evalkit.features.encoder_setup import layer_table
from evalkit.features.extract import extract
from evalkit.features.options import LayerSelection
from evalkit.features.pooling import pool_output, pool_to_grid

CPU = {"device": "cpu", "precision": "float32"}


def own(module, preprocessing=None, **about):
    """A module as an encoder, without a file."""
    return Encoder("own", HookedNetwork(module), preprocessing or Preprocessing(), **about)


def rows(images, encoder, folder, selection=LayerSelection(), **options):
    return extract(images, encoder, out=folder, layers=selection, dtype="float32", **CPU | options).features


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


# -- preprocessing


def test_value_of_preprocessing():
    pixels = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    preprocessing = Preprocessing(range=(-1, 1), mean=(0.0, 0.1, 0.5), std=(1.0, 2.0, 0.5))
    # -1, -0.6 and 1; then minus mean, divided by std
    torch.testing.assert_close(preprocessing(pixels).flatten(), torch.tensor([-1.0, -0.35, 1.0]))


def test_reference_resizing_is_that_of_torchvision():
    from torchvision.transforms.v2.functional import resize

    pixels = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = Preprocessing(size=20, resize=True)(pixels)
    theirs = resize(pixels.permute(0, 3, 1, 2).float(), [20, 20], antialias=True) / 255
    torch.testing.assert_close(ours, theirs)


def test_manifest_has_the_preprocessing(striped, tmp_path):
    features = extract(striped, own(nn.Flatten(), Preprocessing(range=(-1, 1))), out=tmp_path / "f", **CPU)
    expected = {"size": None, "resize": False, "channels": 3, "range": [-1, 1], "mean": [0.0], "std": [1.0]}
    assert features.manifest["preprocessing"] == expected


# -- layers and batch norm


def test_value_of_average_pooling_and_of_whole_maps():
    ascending = torch.arange(16.0).view(1, 1, 4, 4)
    assert pool_output(ascending, LayerSelection(pool_size=2, pool="average")).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert pool_output(ascending, LayerSelection(pool_size=2, pool="none")).tolist() == [list(range(16))]
    assert pool_output(ascending, LayerSelection(pool_size=8)).tolist() == [
        list(range(16))
    ]  # no cell is repeated to fill a larger grid


def test_value_of_tokens():
    tokens = torch.tensor([[[1.0, 2], [3, 6]]])
    assert pool_output(tokens, LayerSelection(tokens="class")).tolist() == [[1, 2]]
    assert pool_output(tokens, LayerSelection()).tolist() == [[2, 4]]


def test_reference_layer_outputs_are_those_before_later_layers_overwrite_them(striped, tmp_path):
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


def test_batch_norms_are_folded_only_where_outputs_stay_the_same(striped):
    network, sample = HookedNetwork(TwoBlocks().eval()), as_input(striped.images[:4])
    folded = network.optimized_for_inference(["relu"], precision="float32", sample=sample).network.module
    assert isinstance(folded.bn1, nn.Identity)
    assert isinstance(folded.bn2, nn.Identity)
    selected = network.optimized_for_inference(["conv2"], precision="float32", sample=sample).network.module
    assert isinstance(selected.bn1, nn.Identity)
    assert isinstance(selected.bn2, nn.BatchNorm2d)

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


def test_reference_target_statistics(striped, tmp_path):
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
def test_invariance_an_extraction_leaves_the_encoders_statistics_as_they_were(striped, tmp_path, first):
    """An encoder used with one mode gives, with any other, the same bytes as a fresh encoder."""
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


def test_name_of_the_features_says_what_differs_from_the_default(striped, tmp_path):
    selection = LayerSelection(("bn1", "bn2"), pool_size=2, pool="average")
    features = extract(striped, own(TwoBlocks()), out=tmp_path / "f", layers=selection, batch_norm="target", **CPU)
    assert features.encoder == "own (target batch norm, bn1+bn2, pool size 2, average pooled)"
    plain = extract(striped, own(TwoBlocks()), out=tmp_path / "g", **CPU)
    assert plain.encoder == "own"
    assert [(x.name, x.length) for x in plain.layers] == [("output", 5)]


# -- maps whose channels come last


class BothLayouts(nn.Module):
    """A convolution's maps with channels first, and the same with channels last; for any image size or one only."""

    def __init__(self, *, channels=5, only=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.only = nn.Conv2d(3, channels, 3, 4, 1), only
        self.back, self.same = Permute((0, 2, 3, 1)), nn.LayerNorm(channels)
        self.fixed, self.forth = Permute((0, 2, 3, 1)), nn.AdaptiveAvgPool2d(4)

    def forward(self, x):
        if self.only and x.shape[2] != self.only:
            raise ValueError(f"takes {self.only} pixels")
        maps = self.conv(x)
        return self.same(self.back(maps)), self.fixed(self.forth(maps))


class Permute(nn.Module):
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
        striped, own(module), out=tmp_path / "f", layers=LayerSelection(names, pool_size=2), dtype="float32", **CPU
    )
    assert [(x.name, x.channels, x.grid, x.channels_last) for x in features.layers] == [
        ("conv", 5, 2, False), ("back", 5, 2, True), ("forth", 5, 2, False), ("fixed", 5, 2, True)
    ]  # fmt: skip
    conv, back, forth, fixed = np.split(features.features, 4, axis=1)
    assert conv.tobytes() == back.tobytes()
    assert forth.tobytes() == fixed.tobytes()
    with torch.no_grad():
        expected = pool_to_grid(module.conv(as_input(striped.images)), 2)
    np.testing.assert_allclose(conv, expected.numpy(), rtol=0, atol=1e-5)


def test_maps_with_as_many_channels_as_rows_need_growth_or_the_layout_option(striped, tmp_path):
    """8 channels of 8 x 8: growth tells the axes apart; if the network takes one size, only `layout` can."""
    names = ("conv", "back")
    grown = extract(striped, own(BothLayouts(channels=8)), out=tmp_path / "a", layers=LayerSelection(names), **CPU)
    assert [layer.channels_last for layer in grown.layers] == [False, True]
    one = BothLayouts(channels=8, only=32)
    assert not any(
        x.channels_last
        for x in extract(striped, own(one), out=tmp_path / "b", layers=LayerSelection(names), **CPU).layers
    )
    stated = extract(
        striped, own(one), out=tmp_path / "c", layers=LayerSelection(("back",), layout="channels-last"), **CPU
    )
    assert stated.layers[0].channels_last
    assert stated.encoder == "own (back, channels-last)"
    assert np.array_equal(stated.features, grown.features[:, : 8 * 16])


def test_layers_of_swin_have_channels_last(monkeypatch, tmp_path):
    monkeypatch.setattr("evalkit.encoders.hub._SIZE", 64)
    encoder = load_encoder("torchvision:swin_t", home=tmp_path)
    listed = layer_table(encoder, torch.zeros(2, 64, 64, 3, dtype=torch.uint8), LayerSelection())
    found = {layer.name: (shape, layer.channels, layer.channels_last) for layer, shape, _ in listed}
    assert found["features.0.0"] == ((96, 16, 16), 96, False)  # the convolution that makes patches
    assert found["features.1"] == ((16, 16, 96), 96, True)
    assert found["features.7"] == ((2, 2, 768), 768, True)
    assert found["permute"] == ((768, 2, 2), 768, False)
    assert found["output"] == ((768,), 768, False)


# -- what is refused


def assert_refused(images, module, match, tmp_path, selection=LayerSelection(), **options):
    with pytest.raises(EvalkitError, match=match) as refusal:
        rows(images, own(module), tmp_path / "refused", selection, **options)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "refused").exists()


def test_unknown_layers_are_refused(striped, tmp_path):
    assert_refused(
        striped, TwoBlocks(), "own: no layer 'conv3'; nearest: conv2, conv1", tmp_path, LayerSelection(("bn1", "conv3"))
    )


def test_outputs_that_depend_on_the_batch_are_refused(striped, tmp_path):
    norm = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert_refused(striped, norm, "layer output of an image changes by .* normalised over the batch", tmp_path)

    class Noisy(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x.flatten(1), training=True)

    assert_refused(striped, Noisy(), "layer output of an image changes by .* or from run to run", tmp_path)
    assert rows(striped, own(norm), tmp_path / "batch", batch_norm="batch").shape == (360, 64)  # asked for


class Broken(nn.Module):
    def forward(self, x):
        dark = x.flatten(1).mean(1, keepdim=True) < self.below
        return torch.where(dark, torch.nan, x.flatten(1))


def test_outputs_that_are_not_finite_are_refused(striped, tmp_path):
    module = Broken()
    module.below = 2.0
    assert_refused(striped, module, "layer output gives nan, expected finite numbers; .* range 0 to 1", tmp_path)
    means = striped.images.reshape(360, -1).mean(1) / 255
    module.below = float(np.sort(means)[0] + 1e-6)
    worst = int(means.argmin())
    assert worst >= 8  # the first images, which are tried, are in order
    assert_refused(striped, module, rf"feature 0 \(layer output\) of image {worst} is nan as float32", tmp_path)


def test_numbers_too_large_for_float16_are_refused(striped, tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(1, bias=False))
    module(torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        module[1].weight.fill_(1e3)
    with pytest.raises(ArtifactError, match=r"is inf as float16; .* \(--dtype float32\)"):
        extract(striped, own(module), out=tmp_path / "f", **CPU | {"dtype": "float16"})


def test_images_of_another_size_are_refused(striped, tmp_path):
    with pytest.raises(EvalkitError, match="own takes images of 64x64, these are 32x32; prepare them with --size 64"):
        extract(striped, own(nn.Flatten(), Preprocessing(size=64)), out=tmp_path / "f", **CPU)
    assert_refused(striped, nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "own: fails on 8 images of 32x32", tmp_path)


def test_networks_that_return_no_tensor_are_refused(striped, tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return "no tensor"

    assert_refused(striped, Odd(), "returns no tensor .* name its layers, see --list-layers", tmp_path)
