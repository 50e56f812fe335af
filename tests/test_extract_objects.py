"""Objects through `extract`: a module, arrays, a DataLoader, without a workspace; what is left on disk; layer lists."""

import gc
import tempfile

import numpy as np
import pytest
import torch
from helpers import striped_arrays
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import evalkit
from evalkit import EvalkitError, LayerSelection

CPU = {"device": "cpu", "precision": "float32", "dtype": "float32"}
IMAGES, LABELS = striped_arrays(24)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder that temporary workspaces are made in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 5))


def outputs(module):
    """The module's output for the images, as anyone would compute it."""
    with torch.no_grad():
        return module(torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255).numpy()


def assert_temporary_folder_is_empty(folder):
    gc.collect()
    assert list(folder.iterdir()) == []


def test_reference_a_module_and_arrays_without_a_workspace(module, temporary):
    features = evalkit.extract((IMAGES, LABELS), module, **CPU)
    np.testing.assert_allclose(features.features, outputs(module), rtol=1e-4, atol=1e-5)
    assert features.labels.tolist() == LABELS.tolist()
    assert features.splits == {"train": (0, 24)}
    assert features.encoder == "Sequential"
    assert np.load(features.path / "features.npy").shape == (24, 5)
    del features
    assert_temporary_folder_is_empty(temporary)


def test_a_data_loader_gives_the_same_features_as_arrays(module, temporary):
    tensors = TensorDataset(torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255, torch.from_numpy(LABELS))
    loaders = {"train": DataLoader(tensors, batch_size=5), "test": DataLoader(tensors, batch_size=7)}
    features = evalkit.extract(loaders, module, **CPU)
    arrays = evalkit.extract({"train": (IMAGES, LABELS), "test": (IMAGES, LABELS)}, module, **CPU)
    assert features.splits == {"train": (0, 24), "test": (24, 48)}
    assert features.sha256 == arrays.sha256
    del features, arrays
    assert_temporary_folder_is_empty(temporary)


def test_the_module_stays_as_it_was(module, temporary):
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    evalkit.extract((IMAGES, LABELS), module, **CPU)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("layers", ["0", ["0"], LayerSelection(("0",))])
def test_layers_by_name_by_list_and_by_selection(module, temporary, layers):
    features = evalkit.extract((IMAGES, LABELS), module, layers=layers, **CPU)
    assert [(layer.name, layer.length) for layer in features.layers] == [("0", 4 * 4 * 4)]


def test_features_in_a_workspace_are_found_there_again(module, tmp_path):
    features = evalkit.extract((IMAGES, LABELS), module, home=tmp_path, **CPU)
    assert features.path == tmp_path / "features" / "images--Sequential"
    again = evalkit.extract((IMAGES, LABELS), module, home=tmp_path, **CPU)
    assert again.provenance.created == features.provenance.created
    assert evalkit.load_features(home=tmp_path).sha256 == features.sha256


def test_value_of_a_layer_list(module):
    entries = evalkit.list_layers(module, (IMAGES, LABELS), layers="1")
    assert [(entry.layer.name, entry.shape, entry.layer.length) for entry in entries] == [
        ("0", (4, 15, 15), 64),
        ("1", (4, 15, 15), 64),
        ("2", (900,), 900),
        ("3", (5,), 5),
        ("output", (5,), 5),
    ]
    assert [entry.layer.name for entry in entries if entry.selected] == ["1"]


def test_layers_of_an_encoder_for_any_size_need_images(module):
    with pytest.raises(EvalkitError, match="Sequential: takes images of any size; give images= to say which"):
        evalkit.list_layers(module)
