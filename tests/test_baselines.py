"""Baselines by one command, scaled features, the ablation: against scikit-learn, resumption, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from evalkit.evaluation.baselines import baseline
from evalkit.evaluation.protocol import BASELINES, Protocol
from evalkit.features.featureset import load_features
from evalkit.features.transforms import scale
from evalkit.gan.recipes import load_recipe
from evalkit.probes.classifiers import SolverOptions
from evalkit.probes.supervised import Search, SupervisedCNN, sample_trial
from evalkit.results import read_results
from evalkit.workspace import Workspace

TINY = {"kmeans": ["--centroids", 8, "--patches", 400], "cnn": ["--trials", 2, "--updates", 2]}


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_by_one_command(run, home, name):
    options = [
        "--protocol",
        "striped:8",
        "--num-test-subsets",
        2,
        "--num-selection-subsets",
        2,
        "--recipe",
        "digits",
        "--device",
        "cpu",
    ]
    result = run("baseline", name, *options, *TINY.get(name, []))
    assert result.exit_code == 0, result.output
    row = read_results(home / "results.csv").iloc[0]
    assert (row["protocol"], row["n"], row["n_train"], row["n_test"]) == ("8", 2, 24, 60)
    assert name == "cnn" or row["value"] > 30  # chance is a third; two updates are none
    expected = {"kmeans": "kmeans:striped-8", "random": "random:digits", "cnn": "digits network"}
    assert row["encoder"] == expected.get(name, "pixels")
    assert row["scaling"] == {"kmeans": "standardised", "whitened": "PCA-whitened"}.get(name, "")
    assert row["classifier"].startswith({"knn": "kNN", "logistic": "logistic", "cnn": "supervised"}.get(name, "L2-SVM"))


def test_a_baseline_on_other_features_and_on_the_label_subsets_of_an_earlier_run(run, home):
    run("extract", "--dataset", "striped", "--encoder", "random:digits", "--device", "cpu")
    assert run("svm", "--protocol", "striped:8", "--num-test-subsets", 2, "--num-selection-subsets", 2).exit_code == 0
    (subsets,) = Workspace(home).label_subsets.iterdir()
    result = run(
        "baseline", "knn", "--features", "striped--random-digits", "--dataset", "striped", "--label-subsets", subsets
    )
    assert result.exit_code == 0, result.output
    table = read_results(home / "results.csv")
    assert table["encoder"].tolist() == ["random:digits"] * 2
    assert table["label_subsets_sha256"].nunique() == 1


def test_a_protocol_for_another_data_set_is_refused_in_one_line(run):
    run("extract", "--dataset", "striped", "--encoder", "pixels")
    result = run("svm", "--protocol", "cifar10:400")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert (
        "the protocol is for cifar10, the features are of striped; run `evalkit extract --dataset cifar10`"
        in result.stderr
    )
    assert "the protocol is for cifar10" in run("svm", "--protocol", "cifar10", "--features", "striped--pixels").stderr


def test_the_ablation_measures_each_layer_once(run, home):
    run("extract", "--dataset", "striped", "--encoder", "random:digits", "--device", "cpu")
    options = ["--protocol", "striped:8", "--num-test-subsets", 2, "--num-selection-subsets", 2, "--device", "cpu"]
    assert run("ablate", *options).stdout.count("\n") == 3
    again = run("ablate", *options)
    assert again.stdout == ""
    assert again.stderr.count("already measured") == 3
    assert run("ablate", *options, "--cumulative").stdout.count("\n") == 3
    table = read_results(home / "results.csv").set_index("layers")
    assert table["num_features"].to_dict() == {
        "conv1": 512, "conv2": 1024, "conv3": 2048, "conv1..conv1": 512, "conv1..conv2": 1536, "conv1..conv3": 3584,
    }  # fmt: skip
    assert table.loc["conv1", "value"] == table.loc["conv1..conv1", "value"]


@pytest.mark.parametrize("scaling", ["standardise", "whiten"])
def test_reference_scaled_features_equal_scikit_learns(run, home, scaling):
    run("extract", "--dataset", "striped", "--encoder", "pixels", "--dtype", "float32")
    features = load_features(home / "features/striped--pixels")
    found = scale(features, home / "features/scaled", scaling)
    train = np.array(features.features[:120], np.float64)
    model = StandardScaler() if scaling == "standardise" else PCA(0.99, whiten=True)
    expected = model.fit(train).transform(np.array(features.features, np.float64))
    sign = 1.0 if scaling == "standardise" else np.sign((found.features * expected).sum(0))
    np.testing.assert_allclose(found.features * sign, expected, atol=2e-3)  # float32 components of variance 1
    assert scale(features, home / "features/scaled", scaling).manifest["created"] == found.manifest["created"]


def test_scaling_leaves_the_latest_features_latest(run, home):
    run("extract", "--dataset", "striped", "--encoder", "pixels")
    run("svm", "--scaling", "standardise", "--device", "cpu")
    assert Workspace(home).latest("feature set").name == "striped--pixels"
    assert read_results(home / "results.csv")["scaling"].tolist() == ["standardised"]


def test_pca_of_too_many_columns_is_refused(run, monkeypatch):
    monkeypatch.setattr("evalkit.features.transforms._WIDEST", 100)
    run("extract", "--dataset", "striped", "--encoder", "pixels")
    result = run("svm", "--scaling", "whiten")
    assert "pixels: 3,072 columns, PCA takes at most 100; use --scaling standardise" in result.stderr


def test_a_search_that_runs_out_of_time_keeps_its_fits_and_resumes(run, home):
    options = ["--protocol", "striped:8", "--recipe", "digits", "--device", "cpu", "--updates", 2]
    stopped = run("baseline", "cnn", *options, "--trials", 2, "--minutes", 0)
    assert stopped.exit_code == 1
    assert "0 minutes are over, 0 fits are kept; run the same" in stopped.stderr
    first = run("baseline", "cnn", *options, "--trials", 2)
    assert "supervised CNN (best of 2 trials)" in first.stdout
    again = run("baseline", "cnn", *options, "--trials", 2, "--minutes", 0)  # everything is there already
    assert again.stdout == first.stdout


def test_trials_differ_and_depend_on_the_seed_alone():
    trials = [sample_trial(number, seed=0) for number in range(64)]
    assert trials == [sample_trial(number, seed=0) for number in range(64)]
    assert len(set(trials)) == 64
    assert sample_trial(0, seed=1) != trials[0]
    assert all(1e-4 <= trial.lr <= 1e-2 for trial in trials)


def test_the_supervised_network_is_the_discriminator_with_an_output_per_class():
    """Pinned: 4,586,112 of D, its 8,192 output weights replaced by ten classes' and their biases."""
    network = SupervisedCNN(load_recipe("imagenet32"), 10, dropout=0.0, seed=0)
    assert sum(p.numel() for p in network.parameters()) == 4_586_112 - 8192 + 8192 * 10 + 10


def test_the_supervised_network_learns(home, tmp_path):
    images = np.load(home / "images/striped/images.npy").reshape(180, -1)
    labels = np.load(home / "images/striped/labels.npy")
    search = Search(replace(load_recipe("digits"), base_channels=8), tmp_path / "fits", updates=15)
    rows, test = np.arange(120), np.arange(120, 180)
    found = search(images, labels, [rows], (4,), test, SolverOptions()).labels[0]
    assert (found == labels[test]).mean() > 0.6  # chance is a third


def test_a_baseline_of_arrays_without_a_workspace_is_that_of_the_image_set(striped):
    splits = {
        name: (striped.images[slice(*rows)], striped.labels[slice(*rows)]) for name, rows in striped.splits.items()
    }
    protocol = Protocol(labels_per_class=8, num_selection_subsets=1, num_test_subsets=2)
    of_arrays = baseline("pixels", splits, protocol, device="cpu")
    of_the_set = baseline("pixels", striped, protocol, device="cpu")
    assert np.array_equal(of_arrays.predictions, of_the_set.predictions)
