"""Weights as other projects save them, and files that are damaged: what is taken, what is refused, always one line."""

import argparse
import logging
import pathlib
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torchvision import models

from evalkit import load_encoder
from evalkit.encoders.encoder import Preprocessing
from evalkit.encoders.weights import load_state
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.extract import extract
from evalkit.weights_files import read_weights


class Small(nn.Module):
    """A body of two blocks and a classifier, by the names of a ResNet."""

    def __init__(self, classes=5, blocks=2):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 4), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(*(nn.Conv2d(4, 4, 3, 1, 1) for _ in range(blocks)))
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.layer1(self.bn1(self.conv1(x))).mean((2, 3)))


def trained(seed=1, **options):
    torch.manual_seed(seed)
    return Small(**options).state_dict()


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def body(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


STATE, OTHER = trained(1), trained(2)
HEAD = {"head.mlp.0.weight": torch.ones(3, 4), "head.last_layer.weight": torch.ones(2, 3)}
WRAPPED = {
    "lightning": (
        {"state_dict": prefixed("model.backbone.", STATE), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        "state_dict.model.backbone.",
    ),
    "dino": (
        {
            "teacher": prefixed("module.backbone.", STATE) | prefixed("module.", HEAD),
            "student": prefixed("module.backbone.", OTHER) | prefixed("module.", HEAD),
            "args": argparse.Namespace(arch="small", out=pathlib.PosixPath("/tmp")),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}},
        },
        "teacher.module.backbone.",
    ),
    "moco v3": (
        {"state_dict": prefixed("module.encoder_k.", OTHER) | prefixed("module.encoder_q.", STATE)},
        "state_dict.module.encoder_q.",
    ),
    "byol": (prefixed("target_network.net.", OTHER) | prefixed("online_network.net.", STATE), "online_network.net."),
    "i-jepa": ({"encoder": OTHER, "target_encoder": prefixed("module.", STATE)}, "target_encoder.module."),
    "timm average": ({"state_dict": OTHER, "state_dict_ema": STATE}, "state_dict_ema."),
    "compiled in parallel": ({"net": prefixed("module._orig_mod.", STATE)}, "net.module._orig_mod."),
    "numpy beside": ({"model_state": STATE, "best": np.float64(0.5), "loss": np.float32(1)}, "model_state."),
    "counters missing": ({n: v for n, v in STATE.items() if "num_batches" not in n}, ""),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_wrapped_weights_are_recognized_and_the_prefix_is_said(wrapping, tmp_path, caplog):
    saved, prefix = WRAPPED[wrapping]
    torch.save(saved, tmp_path / "w.pth")
    network = Small()
    with caplog.at_level(logging.INFO, "evalkit"):
        assert load_state(network, tmp_path / "w.pth") == ()
    wrong = [n for n, v in network.state_dict().items() if "num_batches" not in n and not torch.equal(v, STATE[n])]
    assert wrong == []
    if prefix:
        assert f"weights under {prefix!r}; left: " in caplog.text


def test_what_is_left_is_said(tmp_path, caplog):
    torch.save(
        {"teacher": prefixed("backbone.", STATE | {"rotation.weight": torch.ones(1)}) | HEAD}, tmp_path / "w.pth"
    )
    with caplog.at_level(logging.INFO, "evalkit"):
        load_state(Small(), tmp_path / "w.pth")
    assert "left: rotation.weight; 2 tensors elsewhere in the file" in caplog.text


def test_safetensors_are_told_by_their_content(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(save(STATE))
    assert torch.equal(read_weights(tmp_path / "pytorch_model.bin")["conv1.weight"], STATE["conv1.weight"])


# -- weights that are not all there


def test_a_classifier_of_other_classes_is_refused_only_where_its_layer_is_chosen(striped, tmp_path):
    for number, state in enumerate((body(STATE), trained(1, classes=10))):
        torch.save(state, tmp_path / f"{number}.pth")
        encoder = load_encoder(Small(), weights=tmp_path / f"{number}.pth")
        assert encoder.missing == ("fc.weight", "fc.bias")
        with pytest.raises(EvalkitError, match="layer output needs weights that their file lacks, of fc.bias, fc.wei"):
            extract(striped, encoder, out=tmp_path / "f", device="cpu")
        whole = Small()
        whole.load_state_dict(STATE)
        found = extract(striped, encoder, layers="layer1", out=tmp_path / f"f{number}", device="cpu").features
        expected = extract(striped, load_encoder(whole), layers="layer1", out=tmp_path / "whole", device="cpu").features
        assert np.array_equal(found, expected)


def test_reference_a_library_network_needs_no_classifier_in_its_file(tmp_path):
    torch.manual_seed(3)
    network = models.mobilenet_v3_small(weights=None).eval()
    state = {n: v for n, v in network.state_dict().items() if not n.startswith("classifier.3")}
    torch.save({"model": prefixed("module.", state)}, tmp_path / "w.pth")
    encoder = load_encoder(f"torchvision:mobilenet_v3_small:{tmp_path / 'w.pth'}")
    assert encoder.missing == ()
    network.classifier[3] = nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.network(images, ["output"])["output"], network(images))


WIDER = {n: v.repeat(2, *[1] * (v.ndim - 1)) for n, v in STATE.items() if v.ndim}
ANOTHER = {
    "a deeper network": (trained(blocks=3), "unexpected: layer1.2.bias, layer1.2.weight"),
    "a shallower network": (trained(blocks=1), None),
    "an additional bias": (STATE | {"bn1.extra": torch.ones(1)}, "unexpected: bn1.extra"),
    "another width": (WIDER, "of another shape: bn1.bias, bn1.running_mean"),
    "no stem": ({n: v for n, v in STATE.items() if n != "conv1.weight"}, "missing: conv1.weight"),
    "nothing in common": ({"a.b": torch.ones(1)}, "missing: .*; unexpected: b"),
    "two networks": ({"left": STATE, "right": OTHER}, "holds 2 networks that fit equally well, under left., right."),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANOTHER)
def test_weights_of_another_network_are_refused(kind, striped, tmp_path):
    state, match = ANOTHER[kind]
    torch.save(state, tmp_path / "w.pth")
    if match is None:
        encoder = load_encoder(Small(), weights=tmp_path / "w.pth")
        with pytest.raises(EvalkitError, match="layer output needs weights that their file lacks, of layer1.1"):
            extract(striped, encoder, out=tmp_path / "f", device="cpu")
        return
    with pytest.raises(ArtifactError, match=match) as refusal:
        load_encoder(Small(), weights=tmp_path / "w.pth")
    assert "\n" not in str(refusal.value)


# -- numbers that are none, types, weights that do not exist yet


@pytest.mark.parametrize(("value", "word"), [(torch.nan, "NaN"), (torch.inf, "infinite"), (-torch.inf, "infinite")])
def test_weights_that_are_not_finite_are_refused(value, word, tmp_path):
    state = trained()
    state["conv1.weight"][0, 0, 0, 0] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match=f"w.safetensors: 1 of the 108 numbers in conv1.weight are {word}"):
        load_encoder(Small(), weights=tmp_path / "w.safetensors")
    module = Small()
    module.load_state_dict(state)
    with pytest.raises(ArtifactError, match=f"Small: 1 of the 108 numbers in conv1.weight are {word}"):
        load_encoder(module)


def test_an_infinite_mask_is_no_fault():
    module = nn.Sequential(nn.Flatten())
    module.register_buffer("mask", torch.full((2, 2), -torch.inf))
    assert load_encoder(module).name == "Sequential"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_reference_modules_of_other_types_compute_in_float32(dtype, striped, tmp_path):
    factory = tmp_path / f"{dtype}_net.py"
    factory.write_text(
        "import torch\nfrom torch import nn\ndef network():\n    torch.manual_seed(0)\n"
        f"    return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten()).to(torch.{dtype})\n"
    )
    found = extract(
        striped, f"{factory}:network", out=tmp_path / "f", dtype="float32", device="cpu", precision="float32"
    ).features
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 8, 8).to(getattr(torch, dtype)).float()
    with torch.no_grad():
        images = torch.from_numpy(np.array(striped.images)).permute(0, 3, 1, 2) / 255
        expected = conv(images).flatten(1).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # float32, sums of 192 terms


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)),
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(), nn.Flatten()),
    lambda: nn.Conv2d(3, 4, 3, device="meta"),
])  # fmt: skip
def test_networks_without_weights_yet_are_refused_with_what_to_do(make):
    with pytest.raises(EvalkitError, match="have no weights yet .* run the network on one batch|cannot be copied"):
        load_encoder(make())


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_lazy_layers_take_weights_from_a_file(striped, tmp_path):
    plain = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, 2))
    torch.save({"model": plain.state_dict()}, tmp_path / "w.pth")
    lazy = nn.Sequential(nn.LazyConv2d(4, 8, 8), nn.Flatten(), nn.LazyLinear(2))
    found = extract(striped, load_encoder(lazy, weights=tmp_path / "w.pth"), out=tmp_path / "f", device="cpu").features
    expected = extract(striped, load_encoder(plain), out=tmp_path / "g", device="cpu").features
    assert np.array_equal(found, expected)


def test_modules_wrapped_for_compilation_or_parallel_training_are_unwrapped():
    assert isinstance(load_encoder(nn.DataParallel(Small())).network.module, Small)
    assert isinstance(load_encoder(torch.compile(Small())).network.module, Small)


# -- damaged files


def damaged():
    whole = save(STATE)
    length = struct.unpack("<Q", whole[:8])[0]
    huge = whole[:8] + whole[8 : 8 + length].replace(b'"shape":[4,4,3,3]', b'"shape":[4,4,3,9]') + whole[8 + length :]
    yield "cut in the header", whole[:40]
    yield "cut in the tensors", whole[:-7]
    yield "a length of 2^62", struct.pack("<Q", 1 << 62) + whole[8:]
    yield "a shape that is too large", huge
    yield "no JSON", whole[:8] + b"x" * length + whole[8 + length :]
    yield "an unknown type", whole.replace(b'"F32"', b'"F99"', 1)
    yield "deep JSON", struct.pack("<Q", 20_000) + b"[" * 20_000
    yield "empty", b""


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize(
    ("fault", "content"), list(damaged()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_damaged_safetensors_are_one_line(fault, content, suffix, tmp_path):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    with pytest.raises(ArtifactError, match=f"w.{suffix}: not a file of weights") as refusal:
        read_weights(tmp_path / f"w.{suffix}")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_damaged_torch_files_are_one_line(tmp_path):
    """Every 97th byte flipped, and every 13th of the file's length cut off: a line, or tensors."""
    torch.save({"model": STATE, "args": argparse.Namespace(a=1)}, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    flipped = (whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :] for at in range(0, len(whole), 97))
    cut = (whole[: len(whole) * part // 13] for part in range(13))
    for content in (*flipped, *cut):
        (tmp_path / "bad.pth").write_bytes(content)
        try:
            read_weights(tmp_path / "bad.pth")
        except ArtifactError as error:
            assert "\n" not in str(error)
            assert str(error).isprintable()


def test_a_pickled_module_is_refused_with_what_to_do(tmp_path):
    torch.save(Small(), tmp_path / "module.pth")
    with pytest.raises(
        ArtifactError, match=r"Small in it is code; save the weights alone, with torch.save\(module.sta"
    ):
        read_weights(tmp_path / "module.pth")


def test_no_code_in_a_pickle_runs(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "evil.pth").write_bytes(f"cos\nsystem\n(S'touch {ran}'\ntR.".encode())
    with pytest.raises(ArtifactError, match="evil.pth: not a file of weights"):
        read_weights(tmp_path / "evil.pth")
    assert not ran.exists()


def test_names_in_a_file_are_escaped(tmp_path):
    save_file({"\x1b[31mred\nline": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="not the weights") as refusal:
        load_encoder(Small(), weights=tmp_path / "w.safetensors")
    assert str(refusal.value).isprintable()


def test_preprocessing_is_part_of_what_extract_compares(striped, tmp_path):
    module = nn.Flatten()
    module.preprocessing = {"range": [-1, 1]}
    first = extract(striped, load_encoder(module), out=tmp_path / "f", device="cpu").features.copy()
    changed = load_encoder(load_encoder(module), mean=0.5, name="Flatten")
    second = extract(striped, changed, out=tmp_path / "f", device="cpu").features
    np.testing.assert_allclose(second, first - 0.5, atol=2e-3)  # float16 of numbers up to 1.5
    assert load_encoder(module).preprocessing == Preprocessing(range=(-1, 1))


# -- the range of an encoder's outputs


class Scaled(nn.Module):
    def __init__(self, gain, shift):
        super().__init__()
        self.gain, self.shift = gain, shift

    def forward(self, x):
        return x.flatten(1) * self.gain + self.shift


@pytest.mark.parametrize(("gain", "shift"), [(1.0, 0.0), (1e-8, 0.0), (1e-3, 100.0), (1.0, 30_000.0), (1e6, 0.0)])
def test_features_at_the_defaults_keep_what_tells_images_apart(gain, shift, striped, tmp_path):
    found = extract(striped, Scaled(gain, shift), out=tmp_path / "f", device="cpu").features
    pixels = striped.images.transpose(0, 3, 1, 2).reshape(360, -1) / 255
    np.testing.assert_allclose((found.astype(np.float64) - shift) / gain, pixels, atol=0.01)
