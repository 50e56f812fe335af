"""Imported weights: against Theano's conventions in float64 numpy and pytorch/examples' DCGAN, and what is refused."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from example_results import RESULT
from released import described, write_release
from safetensors.torch import load_file
from scipy.signal import convolve2d
from torch import nn

from evalkit.artifacts import sha256_file
from evalkit.cli import main
from evalkit.encoders import load_encoder
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.extract import extract
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import RECIPES, override
from evalkit.gan.train import TrainOptions, train
from evalkit.pretrained import ImportOptions
from evalkit.pretrained.dcgan_release import RELEASES, discriminator_parameters, generator_parameters, git_blob_sha1
from evalkit.pretrained.import_weights import import_weights
from evalkit.pretrained.registry import list_pretrained, shipped_folder
from evalkit.pretrained.store import PretrainedSettings, load_discriminator, load_generator, read_pretrained
from evalkit.results import add_result
from evalkit.workspace import Workspace

FIRST = {"dcgan-imagenet32": "30", "dcgan-svhn": "200"}


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "home")


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """The folder of a whole synthetic SVHN release, which is in the index."""
    release = write_release(tmp_path / "svhn", RELEASES["dcgan-svhn"])
    monkeypatch.setitem(RELEASES, "dcgan-svhn", release)
    return tmp_path / "svhn"


# -- the index


@pytest.mark.parametrize(("name", "d_arrays", "g_arrays"), [("dcgan-imagenet32", 17, 19), ("dcgan-svhn", 8, 10)])
def test_pinned_index(name, d_arrays, g_arrays):
    release = RELEASES[name]
    epoch = FIRST[name]
    assert [file.name for file in release.files] == [
        *(f"{epoch}_discrim_params.jl_{i:02d}.npy" for i in range(1, d_arrays + 1)),
        *(f"{epoch}_gen_params.jl_{i:02d}.npy" for i in range(1, g_arrays + 1)),
    ]
    assert len(release.indexed) == d_arrays + g_arrays + 2
    assert all(len(bytes.fromhex(file.git_blob_sha1)) == 20 for file in release.indexed)
    commit = "ee12b2d15a3856794b8dae77d1eb263c67c36e47"
    assert all(file.url.split("/")[3:6] == ["Newmu", "dcgan_code", commit] for file in release.files)


@pytest.mark.parametrize("name", RELEASES)
def test_sizes_in_the_index_are_the_networks(name):
    """float32 parameters and an old numpy's header of 80 or 96 bytes."""
    recipe = RECIPES[RELEASES[name].recipe]
    generator, discriminator = build_networks(recipe, seed=0)
    sizes = [discriminator.state_dict()[p.name].numel() for p in discriminator_parameters(recipe)]
    sizes += [generator.state_dict()[p.name].numel() for p in generator_parameters(recipe)]
    headers = [file.bytes - 4 * size for file, size in zip(RELEASES[name].files, sizes, strict=True)]
    assert set(headers) == {80, 96}


def test_value_of_gits_hash(tmp_path):
    (tmp_path / "file").write_text("hello\n")  # printf 'hello\n' | git hash-object --stdin
    assert git_blob_sha1(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


# -- reference: Theano's true convolution and its gradient, float64, written from their definition


def true_convolution(x, kernels, stride):
    """Theano's dnn_conv: x (N, C, H, W) with kernels (O, C, k, k) turned, padded by k // 2."""
    k = kernels.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = -(-(x.shape[2] - k + 1) // stride)
    y = np.zeros((len(x), len(kernels), out, out))
    for a in range(k):
        for b in range(k):
            rows, columns = (slice(k - 1 - i, k - i + stride * (out - 1), stride) for i in (a, b))
            y += np.einsum("nchw,oc->nohw", x[:, :, rows, columns], kernels[:, :, a, b], optimize=True)
    return y


def true_deconvolution(y, kernels, stride):
    """The release's deconv: the gradient of true_convolution to its input, `stride` times as large as y."""
    k, out = kernels.shape[2], y.shape[2]
    x = np.zeros((len(y), kernels.shape[1], stride * out + k - 1, stride * out + k - 1))
    for a in range(k):
        for b in range(k):
            rows, columns = (slice(k - 1 - i, k - i + stride * (out - 1), stride) for i in (a, b))
            x[:, :, rows, columns] += np.einsum("nohw,oc->nchw", y, kernels[:, :, a, b], optimize=True)
    return x[:, :, k // 2 :, k // 2 :][:, :, : stride * out, : stride * out]


def normalise(x, gain, bias):
    """The release's batchnorm: by the batch, biased variance, eps 1e-8; a gain per channel, or per unit for vectors."""
    axes = (0, 2, 3) if x.ndim == 4 else (0,)
    shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
    x = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-8)
    return x * gain.reshape(shape) + bias.reshape(shape)


def lrelu(x):
    return np.where(x > 0, x, 0.2 * x)


def theano_discriminator(arrays, strides, x):
    """(layer outputs, logits): w; then w, gain, bias per layer; last the matrix."""
    first, *rest, last = arrays
    outputs = [lrelu(true_convolution(x, first, strides[0]))]
    for i, stride in enumerate(strides[1:]):
        w, gain, bias = rest[3 * i : 3 * i + 3]
        outputs.append(lrelu(normalise(true_convolution(outputs[-1], w, stride), gain, bias)))
    return outputs, outputs[-1].reshape(len(x), -1) @ last


def theano_generator(arrays, strides, z):
    w, gain, bias, *rest, last = arrays
    h = np.maximum(normalise(z @ w, gain, bias), 0).reshape(len(z), -1, 4, 4)
    for i, stride in enumerate(strides[:-1]):
        w, gain, bias = rest[3 * i : 3 * i + 3]
        h = np.maximum(normalise(true_deconvolution(h, w, stride), gain, bias), 0)
    return np.tanh(true_deconvolution(h, last, strides[-1]))


def test_reference_convolution_is_scipys_and_its_deconvolution_the_adjoint():
    random = np.random.default_rng(1)
    x, kernels = random.normal(size=(1, 1, 8, 8)), random.normal(size=(1, 1, 3, 3))
    np.testing.assert_allclose(true_convolution(x, kernels, 1)[0, 0], convolve2d(x[0, 0], kernels[0, 0], "same"))
    for k, stride in ((3, 1), (3, 2), (5, 2)):
        x, kernels = random.normal(size=(2, 3, 8, 8)), random.normal(size=(4, 3, k, k))
        y = random.normal(size=(2, 4, 8 // stride, 8 // stride))
        forward = (true_convolution(x, kernels, stride) * y).sum()
        assert forward == pytest.approx((x * true_deconvolution(y, kernels, stride)).sum())  # <Ax, y> = <x, A'y>


@pytest.mark.parametrize("name", RELEASES)
def test_reference_imported_networks_are_theanos(name, tmp_path, workspace, monkeypatch):
    release = write_release(tmp_path / "release", RELEASES[name])
    monkeypatch.setitem(RELEASES, name, release)
    path = import_weights([tmp_path / "release"], home=workspace)
    assert path == workspace.path_of("pretrained weights", name)
    arrays = [np.load(tmp_path / "release" / file.name).astype(np.float64) for file in release.files]
    recipe, random = RECIPES[release.recipe], np.random.default_rng(2)
    count = len(discriminator_parameters(recipe))
    images, z = random.uniform(-1, 1, (3, 3, 32, 32)), random.normal(size=(3, recipe.z_dim))
    outputs, logits = theano_discriminator(arrays[:count], recipe.d_strides, images)
    discriminator = load_discriminator(path).train()  # normalises by the batch, as Theano's does
    with torch.no_grad():
        ours = discriminator.layer_outputs(torch.from_numpy(images).float())
        ours_logits = discriminator(torch.from_numpy(images).float())[:, None]
        samples = load_generator(path)(torch.from_numpy(z).float())
    # float32: sums of up to 4,608 products, normalised to about 1 after each layer
    for output, expected in zip(ours.values(), outputs, strict=True):
        np.testing.assert_allclose(output, expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(ours_logits, logits, rtol=0, atol=1e-3)
    np.testing.assert_allclose(samples, theano_generator(arrays[count:], recipe.g_strides, z), rtol=0, atol=1e-3)


# -- a release in parts


def test_incomplete_releases_are_refused_or_give_their_complete_layers(svhn, workspace):
    for i in (7, 8):
        (svhn / f"200_discrim_params.jl_{i:02d}.npy").unlink()
    with pytest.raises(EvalkitError, match="files of conv3, out are missing: 200_.*_07.npy, .*_08.npy; --part"):
        import_weights([svhn], home=workspace)
    path = import_weights([svhn], home=workspace, options=ImportOptions(partial=True))
    assert path.name == "dcgan-svhn-conv1to2"
    assert "incomplete: only conv1, conv2 of the discriminator" in (path / "card.md").read_text()
    encoder = load_encoder("pretrained:dcgan-svhn-conv1to2", home=workspace)
    assert list(encoder.network(torch.zeros(1, 3, 32, 32))) == ["conv1", "conv2"]
    load_generator(path)  # whole, so imported
    with pytest.raises(AttributeError, match="out"):  # no logits from weights that are not there
        load_discriminator(path)(torch.zeros(1, 3, 32, 32))


def test_a_release_without_a_complete_generator_gets_another_name(svhn, workspace):
    (svhn / "200_gen_params.jl_10.npy").unlink()
    with pytest.raises(
        EvalkitError,
        match="files of deconv3 are missing: 200_gen.*_10.npy; --partial takes the complete layers",
    ):
        import_weights([svhn], home=workspace)
    path = import_weights([svhn], home=workspace, options=ImportOptions(partial=True))
    assert path.name == "dcgan-svhn-discriminator"
    assert load_discriminator(path)(torch.zeros(2, 3, 32, 32)).shape == (2,)


def test_selected_layers_have_to_be_the_first_ones(svhn, workspace):
    path = import_weights([svhn], home=workspace, name="one", options=ImportOptions(layers="conv1"))
    assert list(load_discriminator(path).state_dict()) == ["blocks.0.conv.weight"]
    with pytest.raises(ArtifactError, match="holds no generator; it has discriminator.safetensors"):
        load_generator(path)
    with pytest.raises(EvalkitError, match="layers conv2: expected the first ones, of conv1,conv2,conv3"):
        import_weights([svhn], home=workspace, options=ImportOptions(layers="conv2"))
    (svhn / "200_discrim_params.jl_01.npy").unlink()
    with pytest.raises(EvalkitError, match="files of conv1 are missing: 200_discrim_params.jl_01.npy"):
        import_weights([svhn], home=workspace, options=ImportOptions(layers="conv1"))
    with pytest.raises(EvalkitError, match="not even the first layer is complete: files of conv1 are missing"):
        import_weights([svhn], home=workspace, options=ImportOptions(partial=True))


def test_files_that_differ_from_the_release_are_refused(svhn, workspace, tmp_path, monkeypatch):
    path = svhn / "200_discrim_params.jl_03.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x00")
    with pytest.raises(EvalkitError, match="_03.npy: git blob SHA-1 [0-9a-f]{40}, the release's file has"):
        import_weights([svhn], home=workspace)
    path.write_bytes(content[:-4])
    with pytest.raises(EvalkitError, match="_03.npy: 636 bytes, the release's file has 640"):
        import_weights([svhn], home=workspace)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvalkitError, match="empty: no file of a release; expected those of one, like 30_discrim"):
        import_weights([tmp_path / "empty"], home=workspace)
    shutil.copy(path, svhn / "30_gen_params.jl_01.npy")
    with pytest.raises(EvalkitError, match="files of more than one release"):
        import_weights([svhn], home=workspace)
    assert not workspace.home.joinpath("pretrained/dcgan-svhn").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}] * 128), "not a plain NumPy array .*allow_pickle=False"),
        (np.zeros(128), r"float64 \(128,\), expected float32 \(128,\)"),
        (np.zeros((64, 2), np.float32), r"float32 \(64, 2\), expected float32 \(128,\)"),
    ],
)
def test_arrays_of_another_kind_are_refused(svhn, workspace, monkeypatch, array, message):
    np.save(svhn / "200_discrim_params.jl_03.npy", array, allow_pickle=True)
    release = RELEASES["dcgan-svhn"]
    indexed = tuple(described(svhn, file) for file in release.indexed)
    monkeypatch.setitem(RELEASES, "dcgan-svhn", dataclasses.replace(release, indexed=indexed))
    with pytest.raises(EvalkitError, match=message):
        import_weights([svhn], home=workspace)


def test_a_release_has_no_running_statistics(svhn, workspace, striped, tmp_path):
    import_weights([svhn], home=workspace, options=ImportOptions(layers="conv1,conv2"))
    name = "pretrained:dcgan-svhn-conv1to2"
    features = extract(striped, load_encoder(name, home=workspace), out=tmp_path / "features", device="cpu")
    assert features.features.shape == (360, 16 * (64 + 128))
    assert features.encoder == name
    with pytest.raises(
        EvalkitError, match="`running` needs the statistics of the training, and these weights have none"
    ):
        extract(
            striped, load_encoder(name, home=workspace), out=tmp_path / "running", batch_norm="running", device="cpu"
        )


# -- reference: pytorch/examples' DCGAN


def examples_networks(ndf, ngf, nz=10, nc=3):
    """Its discriminator (without the sigmoid) and generator, freshly made, with biases and statistics of their own."""
    maps = [ndf, 2 * ndf, 4 * ndf, 8 * ndf]
    layers = [nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for a, b in zip(maps, maps[1:], strict=False):
        layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    discriminator = nn.ModuleDict({"main": nn.Sequential(*layers, nn.Conv2d(maps[-1], 1, 4, 1, 0, bias=False))})
    maps = [8 * ngf, 4 * ngf, 2 * ngf, ngf]
    layers = [nn.ConvTranspose2d(nz, maps[0], 4, 1, 0, bias=False), nn.BatchNorm2d(maps[0]), nn.ReLU()]
    for a, b in zip(maps, maps[1:], strict=False):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    last = [nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False), nn.Tanh()]
    generator = nn.ModuleDict({"main": nn.Sequential(*layers, *last)})
    random = torch.Generator().manual_seed(0)
    for norm in (m for net in (discriminator, generator) for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            values.uniform_(0.5, 1.5, generator=random)
        norm.num_batches_tracked.fill_(7)
    return discriminator, generator


def saved(net, path):
    torch.save(net.state_dict() if isinstance(net, nn.Module) else net, path)
    return path


def test_reference_a_torch_dcgan_is_the_same_network(tmp_path, workspace):
    d, g = examples_networks(ndf=6, ngf=4)
    parallel = {f"module.{name}": value for name, value in g.state_dict().items()}  # as nn.DataParallel saves it
    files = [saved(d, tmp_path / "netD.pth"), saved(parallel, tmp_path / "netG.pth")]
    path = import_weights(files, home=workspace, name="bedrooms", options=ImportOptions(licence="CC0"))
    random = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 64, 64, generator=random) * 2 - 1
    z = torch.randn(3, 10, generator=random)
    ours, drawn = load_discriminator(path), load_generator(path)(z)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), d.eval()["main"](images).flatten())
        torch.testing.assert_close(ours.layer_outputs(images)["conv4"], d["main"][:11](images))
        torch.testing.assert_close(drawn, g.train()["main"](z[:, :, None, None]))
    assert "- licence: CC0" in (path / "card.md").read_text()
    recipe = read_pretrained(path)["settings"]["recipe"]
    assert (recipe["base_channels"], recipe["d_channel_mults"], recipe["g_channel_mults"]) == (
        2,
        [3, 6, 12, 24],
        [16, 8, 4, 2],
    )


def test_torch_files_of_another_network_are_refused(tmp_path, workspace):
    d, g = examples_networks(ndf=4, ngf=4)
    whole = d.state_dict()
    cases = {
        "missing": ({k: v for k, v in whole.items() if k != "main.6.running_var"}, r"missing: main.6.running_var\)"),
        "surplus": (whole | {"main.12.bias": torch.zeros(1)}, r"surplus: main.12.bias\)"),
        "shape": (whole | {"main.5.weight": torch.zeros(16, 8, 5, 5)}, r"blocks.2.conv.weight is \(16, 8, 5, 5\), exp"),
        "module": (d, "ModuleDict in it is code; save the weights alone"),
        "list": ([1, 2], "it holds no tensor.; expected"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(EvalkitError, match=message):
            import_weights([tmp_path / f"{name}.pth"], home=workspace)
    (tmp_path / "text.pth").write_text("not weights at all")
    with pytest.raises(EvalkitError, match="text.pth: not a file of weights"):
        import_weights([tmp_path / "text.pth"], home=workspace)
    files = [saved(d, tmp_path / "a.pth"), saved(d, tmp_path / "b.pth")]
    with pytest.raises(EvalkitError, match="b.pth: a second discriminator"):
        import_weights(files, home=workspace)
    assert not workspace.home.exists()


def test_an_even_kernel_needs_strides_of_2():
    with pytest.raises(EvalkitError, match="kernel = 4 is even, which needs strides of 2 throughout"):
        override(RECIPES["imagenet32"], {"kernel": 4})


# -- runs and checkpoints of evalkit


@pytest.fixture
def trained(striped, workspace):
    recipe = override(RECIPES["digits"], {"base_channels": 4, "z_dim": 8, "batch_size": 32, "d_updates": 2})
    train(striped, workspace.path_of("run", "tiny"), recipe, options=TrainOptions(device="cpu", precision="float32"))
    return workspace.path_of("run", "tiny")


def test_a_run_becomes_pretrained_weights_with_a_card(trained, workspace, tmp_path):
    options = ImportOptions(licence="MIT", source="this project")
    path = import_weights([trained], home=workspace, name="mine", options=options)
    encoder, run = load_encoder("pretrained:mine", home=workspace), load_encoder("tiny", home=workspace)
    assert encoder.sha256 == run.sha256
    assert encoder.images_sha256 == run.images_sha256 != ""
    card = (path / "card.md").read_text()
    for line in ("recipe digits after 2 D updates", "- licence: MIT", "- lr: 0.0002", "- source: this project"):
        assert line in card
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["settings"]["recipe"]["d_ema"]  # as of an evalkit that did not have it
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert import_weights([trained], home=workspace, name="mine") == path  # the same again: nothing to do
    with pytest.raises(EvalkitError, match="mine: holds other pretrained weights .made from .*; choose another name"):
        import_weights([saved(examples_networks(4, 4)[0], tmp_path / "d.pth")], home=workspace, name="mine")
    with pytest.raises(EvalkitError, match="an artifact of evalkit, but not a run or a checkpoint; expected a folder"):
        import_weights([path], home=workspace)


def test_float16_weights_have_half_the_size_and_their_results_on_the_card(trained, striped, workspace, tmp_path):
    options = ImportOptions(dtype="float16", notes=("2 updates only",))
    path = import_weights([trained], home=workspace, name="half", options=options)
    files = {each: (path / each).stat().st_size for each in ("discriminator.safetensors", "generator.safetensors")}
    whole = trained / "checkpoints" / "d-00000002"
    assert all(size < 0.6 * (whole / each).stat().st_size for each, size in files.items())
    halved, exact = load_discriminator(path).state_dict(), load_file(whole / "discriminator.safetensors")
    assert all(torch.equal(value, exact[name].half().to(value.dtype)) for name, value in halved.items())

    sha256 = sha256_file(path / "discriminator.safetensors")
    ours = dataclasses.replace(
        RESULT, encoder="pretrained:half", weights_sha256=sha256, value=61.25, uncertainty=0.5, n=3
    )
    for result in (ours, dataclasses.replace(RESULT, encoder="other", weights_sha256="ab", value=99.0)):
        add_result(tmp_path / "results.csv", result)
    arguments = ["pretrained", "card", "half", "--results", str(tmp_path / "results.csv")]
    done = CliRunner().invoke(main, ["--home", str(workspace.home), *arguments])
    card = (path / "card.md").read_text()
    assert done.stdout == f"{path / 'card.md'}\n"
    assert "half: 1 results with these weights" in done.stderr
    assert "99.00" not in card
    for line in (
        "accuracy percent 61.25 ± 0.50",
        "n = 3",
        "- 2 updates only",
        "- seed: 0",
        "- precision: float32",
        "- run: tiny",
        "- d_updates: 2",
        f"- command: evalkit train-gan --recipe digits --images {striped.name} --seed 0 --set base_channels=4 --set ",
        "bytes, float16",
    ):
        assert line in card
    assert load_encoder("pretrained:half", home=workspace).sha256 == sha256  # the card is no part of what is hashed
    with pytest.raises(EvalkitError, match="half: holds other pretrained weights .dtype float16 -> float32.;"):
        import_weights([trained], home=workspace, name="half")


def test_moving_averages_are_the_networks_stored(striped, workspace):
    small = {"base_channels": 4, "z_dim": 8, "batch_size": 32, "d_updates": 2, "g_ema": 0.5, "d_ema": 0.5}
    recipe = override(RECIPES["digits"], small)
    run = workspace.path_of("run", "averaged")
    checkpoint = train(striped, run, recipe, options=TrainOptions(device="cpu", precision="float32"))
    path = import_weights([run], home=workspace)
    assert path.name == "digits-2"
    for network, load in (("generator", load_generator), ("discriminator", load_discriminator)):
        expected = load_file(checkpoint / f"{network}_average.safetensors")
        assert all(torch.equal(value, expected[name]) for name, value in load(path).state_dict().items())
        assert f"- the {network} is the moving average over training" in (path / "card.md").read_text()


def test_changed_weights_are_refused(trained, workspace):
    path = import_weights([trained], home=workspace, name="mine")
    weights = path / "discriminator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError, match="its SHA-256 is not the manifest's"):
        load_encoder("pretrained:mine", home=workspace)
    weights.unlink()
    (line,) = (each for each in list_pretrained(home=workspace) if each.name == "mine")
    assert "broken (" in line.about
    assert "discriminator.safetensors: missing" in line.about  # and the others are listed


def test_weights_shipped_with_a_wheel_are_found_outside_the_repository(trained, workspace, tmp_path):
    root = Path(__file__).parent.parent
    source = tmp_path / "source"
    shutil.copytree(root / "evalkit", source / "evalkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(root / name, source / name)
    import_weights([trained], home=workspace, out=source / "pretrained" / "tiny-digits")
    library = tmp_path / "lib"
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(library)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    command, environment = [sys.executable, "-m", "evalkit", "pretrained", "list"], os.environ | {"PYTHONPATH": library}
    listed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f" MB, {library / 'evalkit/pretrained/shipped/tiny-digits'}\n" in listed.stdout
    assert "not here: evalkit pretrained fetch dcgan-svhn" in listed.stdout
    assert shipped_folder() == root / "pretrained"  # a clone's


def test_weights_need_a_place_to_go(trained, tmp_path):
    with pytest.raises(EvalkitError, match="expected home=, the workspace for the weights, or out=, a folder"):
        import_weights(trained)
    path = import_weights(trained, out=tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere"
    assert load_discriminator(path).recipe.base_channels == 4


def test_settings_of_weights_survive_the_manifest(trained, workspace):
    options = ImportOptions(notes=("one", "two"), dtype="float16", source="here")
    manifest = read_pretrained(import_weights([trained], home=workspace, options=options))
    settings = PretrainedSettings.from_manifest(manifest)
    assert settings.notes == ("one", "two")
    assert (settings.source, settings.licence, settings.dtype) == ("here", "not stated", "float16")
    assert settings.as_dict() == manifest["settings"]


# -- the commands


def test_import_command_and_its_refusals(svhn, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "pretrained", *map(str, arguments)])

    imported = run("import", svhn, "--layers", "conv1,conv2")
    assert imported.stdout == f"{tmp_path / 'home/pretrained/dcgan-svhn-conv1to2'}\n"
    listed = run("list").stdout
    assert f"dcgan-svhn-conv1to2: {RELEASES['dcgan-svhn'].about}; 0.8 MB, {tmp_path}" in listed
    assert "licence MIT, source https://github.com/Newmu/dcgan_code, commit ee12b2d" in listed
    unknown = run("fetch", "dcgan")
    assert unknown.exit_code == 1
    assert "dcgan: no released weights of that name; choose dcgan-im" in unknown.stderr
    several = run("import", svhn, svhn)
    assert several.exit_code == 1
    assert "and more: expected a folder of a release's .npy files" in several.stderr


def test_unknown_weights_are_refused_with_the_known_names(workspace):
    with pytest.raises(EvalkitError, match="pretrained:dcgan: no weights of that name; there are .*dcgan-imagenet32, "):
        load_encoder("pretrained:dcgan", home=workspace)
