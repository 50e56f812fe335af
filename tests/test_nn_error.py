"""nn-error: against scikit-learn, planted samples, resumption, the command on a conditional run, refusals."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from evalkit.artifacts import write_artifact
from evalkit.evaluation import nn_error as nn_error_module
from evalkit.evaluation.nn_error import _nearest_labels, _short, sampler
from evalkit.gan.checkpoint import new_state, save_checkpoint
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import load_recipe
from evalkit.neighbors import NearestNeighbors
from evalkit.results import read_results


@pytest.fixture
def conditional(home):
    """A run of three classes at 32 x 32, not trained."""
    recipe = dataclasses.replace(load_recipe("digits"), classes=3, base_channels=4)
    return recipe, saved(home, recipe, "mine")


def saved(home, recipe, name):
    """A checkpoint's path."""
    state = new_state(recipe, seed=0, device=torch.device("cpu"))
    return save_checkpoint(home / "runs" / name, state, made_from={"images_sha256": ""})


def test_reference_nearest_over_batches_equals_scikit_learn():
    random = np.random.default_rng(0)
    samples, labels = random.normal(size=(500, 12)).astype("f4"), random.integers(0, 4, 500)
    images = random.normal(size=(1100, 12)).astype("f4")
    nearest = NearestNeighbors(torch.from_numpy(images), query_block=1000)
    for part in np.split(np.arange(500), [130, 131, 400]):
        nearest.update(torch.from_numpy(samples[part]), torch.from_numpy(labels[part]))
    model = KNeighborsClassifier(1).fit(samples, labels)
    assert np.array_equal(nearest.ids[:, 0].numpy(), model.predict(images))
    expected = model.kneighbors(images)[0][:, 0]
    np.testing.assert_allclose(nearest.distances[:, 0].sqrt(), expected, rtol=1e-3)  # root of rounded squares


def test_value_of_planted_samples(tmp_path):
    """Templates of two classes: mislabelled samples of one class get exactly its images wrong."""
    templates = torch.eye(2, 6) * 5
    truth = torch.arange(40) % 2
    images = templates[truth] + 0.1 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))

    def draw(number, count):
        labels = torch.arange(count) % 2
        noise = torch.randn(count, 6, generator=torch.Generator().manual_seed(number))
        return templates[labels] + 0.1 * noise, torch.zeros_like(labels) if number == 0 else labels

    with write_artifact(tmp_path / "planted", settings={}, made_from={}) as artifact:
        mislabelled = _nearest_labels(artifact, draw, images, 1000)
    assert np.array_equal(mislabelled, np.zeros(40))
    assert (mislabelled != truth.numpy()).mean() == 0.5
    with write_artifact(tmp_path / "right", settings={}, made_from={}) as artifact:
        assert np.array_equal(
            _nearest_labels(artifact, lambda number, count: draw(number + 1, count), images, 10), truth
        )


def test_a_killed_fit_resumes_to_the_same_labels(tmp_path, monkeypatch, conditional):
    monkeypatch.setattr(nn_error_module, "BATCH", 20)
    monkeypatch.setattr(nn_error_module, "_STEP", 2)
    recipe, _ = conditional
    generator = build_networks(recipe, seed=0)[0]
    draw, images = sampler(generator, recipe, seed=0), torch.rand(30, 32 * 32 * 3)
    with write_artifact(tmp_path / "whole", settings={}, made_from={}) as artifact:
        whole = _nearest_labels(artifact, draw, images, 110)
    drawn = []

    def dying(number, count):
        drawn.append(number)
        if drawn == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return draw(number, count)

    for ended in (False, True):
        with write_artifact(tmp_path / "killed", settings={}, made_from={}) as artifact:
            if not ended:
                with pytest.raises(KeyboardInterrupt):
                    _nearest_labels(artifact, dying, images, 110)
            else:
                again = _nearest_labels(artifact, dying, images, 110)
    assert drawn == [0, 1, 2, 3, 2, 3, 4, 5]
    assert np.array_equal(whole, again)


def test_nn_error_on_the_command_line(run, home, conditional):
    result = run("nn-error", "--encoder", conditional[1], "--dataset", "striped", "--samples", 2000, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("striped, mine@0, 1-nn on 2K samples: test error ")
    row = read_results(home / "results.csv").iloc[0]
    assert (row["metric"], row["classifier"], row["n_train"], row["n_test"]) == ("error_percent", "1-NN", 2000, 60)
    assert row["card"]  # an untrained generator
    assert row["value"] > 20
    assert run("report").exit_code == 0
    again = run("nn-error", "--encoder", conditional[1], "--dataset", "striped", "--samples", 2000, "--device", "cpu")
    assert again.stdout == result.stdout


def test_generators_without_matching_classes_are_refused(run, home):
    plain = saved(home, dataclasses.replace(load_recipe("digits"), base_channels=4), "plain")
    result = run("nn-error", "--encoder", plain, "--dataset", "nowhere")
    assert result.exit_code == 1
    assert "plain@0: recipe digits has no classes, so its samples have" in result.stderr
    five = saved(home, dataclasses.replace(load_recipe("digits"), classes=5, base_channels=4), "five")
    result = run("nn-error", "--encoder", five, "--dataset", "striped")
    assert "five@0: generates 5 classes at 32x32, striped has 3 at 32x32" in result.stderr


def test_sample_counts_are_abbreviated_as_in_the_table():
    assert [_short(count) for count in (50_000, 10_000_000, 1234)] == ["50K", "10M", "1234"]
