"""Batch-norm statistics stored with weights: equal to those computed from the images trained on."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import write_image_set
from safetensors.torch import load_file

from evalkit.cli import main
from evalkit.encoders import load_encoder
from evalkit.errors import EvalkitError
from evalkit.features.extract import extract
from evalkit.gan.recipes import RECIPES, override
from evalkit.gan.train import TrainOptions, train
from evalkit.images import load_images
from evalkit.pretrained import ImportOptions
from evalkit.pretrained.import_weights import import_weights
from evalkit.workspace import Workspace

VALUES = {"base_channels": 4, "z_dim": 8, "batch_size": 32, "d_updates": 2}


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "home")


@pytest.fixture
def other(tmp_path):
    """Images that are not those trained on."""
    images = np.random.default_rng(1).integers(0, 256, (200, 32, 32, 3)).astype(np.uint8)
    splits = {"train": (0, 150), "test": (150, 200)}
    return write_image_set(tmp_path / "home/images/other", images, np.arange(200) % 3, splits)


def run(striped, workspace, **values):
    """A trained run, and the images it was trained on in the workspace."""
    recipe = override(RECIPES["digits"], VALUES | values)
    write_image_set(workspace.path_of("image set", "striped"), striped.images, striped.labels, striped.splits)
    images = load_images(workspace.path_of("image set", "striped"))
    train(images, workspace.path_of("run", "tiny"), recipe, options=TrainOptions(device="cpu", precision="float32"))
    return workspace.path_of("run", "tiny"), images


def test_reference_stored_statistics_give_the_features_of_the_images_trained_on(striped, other, workspace, tmp_path):
    trained, images = run(striped, workspace)
    for name, included in (("plain", False), ("complete", True)):
        import_weights(
            [trained], home=workspace, name=name, options=ImportOptions(dtype="float16", source_batch_norm=included)
        )
    plain, complete = (load_encoder(f"pretrained:{name}", home=workspace) for name in ("plain", "complete"))
    assert plain.sha256 == complete.sha256
    assert not plain.source_statistics
    workspace.path_of("pretrained weights", "plain").joinpath("source_statistics.safetensors").write_bytes(
        b"of no manifest"
    )
    assert not load_encoder("pretrained:plain", home=workspace).source_statistics
    first = next(iter(complete.source_statistics.values()))
    assert first.dtype == torch.float32
    assert not torch.equal(first, first.half().float())
    expected = extract(other, plain, out=tmp_path / "a", batch_norm="source", source_images=images, device="cpu")
    given = extract(other, complete, out=tmp_path / "b", batch_norm="source", device="cpu")
    assert np.array_equal(given.features, expected.features)
    assert given.manifest["made_from"] == expected.manifest["made_from"]
    target = extract(other, complete, out=tmp_path / "c", batch_norm="target", device="cpu")
    assert not np.array_equal(given.features, target.features)
    kept = load_file(tmp_path / "b/statistics.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in complete.source_statistics.items())
    with pytest.raises(EvalkitError, match="pretrained:plain: batch norm `source` needs the images it was trained"):
        extract(other, plain, out=tmp_path / "d", batch_norm="source", device="cpu")


def test_extract_by_source_statistics_stored_with_the_weights_needs_no_images(striped, other, workspace):
    trained, images = run(striped, workspace)
    arguments = ["--home", str(workspace.home), "pretrained", "import", str(trained), "--name", "mine"]
    for option in ([], ["--replace", "--source-batch-norm"], ["--source-batch-norm"]):
        assert CliRunner().invoke(main, [*arguments, *option]).exit_code == 0
    folder = workspace.path_of("pretrained weights", "mine")
    assert "source_statistics" in json.loads((folder / "manifest.json").read_text())["settings"]
    size = (folder / "source_statistics.safetensors").stat().st_size
    assert f"- source_statistics.safetensors: {size:,} bytes, float32" in (folder / "card.md").read_text()
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "holds other pretrained weights (source_statistics" in again.stderr  # those without the statistics
    for path in workspace.path_of("image set", "striped").iterdir():
        path.unlink()
    features = extract("other", "pretrained:mine", home=workspace, batch_norm="source", device="cpu")
    assert features.encoder == "pretrained:mine (source batch norm)"
    assert features.manifest["made_from"]["statistics_sha256"] == images.sha256


def test_statistics_without_batch_norm_or_without_images_are_refused(striped, workspace):
    trained, _ = run(striped, workspace, d_norm="spectral")
    with pytest.raises(EvalkitError, match="source statistics: the discriminator has no batch norm"):
        import_weights([trained], home=workspace, options=ImportOptions(source_batch_norm=True))
    for path in workspace.path_of("image set", "striped").iterdir():
        path.unlink()
    with pytest.raises(EvalkitError, match="source statistics need the images that the weights were trained on"):
        import_weights([trained], home=workspace, options=ImportOptions(source_batch_norm=True))
