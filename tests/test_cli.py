"""The command line: end to end on small input, its help, and every user error as one line."""

import dataclasses
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from evalkit.cli import main
from evalkit.cli.options import log_to_stderr
from evalkit.evaluation.protocol import REPRODUCTIONS
from evalkit.gan.recipes import RECIPES
from evalkit.pretrained import registry as find
from evalkit.results import read_results

SMALL = [
    "--set",
    "base_channels=4",
    "--set",
    "batch_size=32",
    "--updates",
    "3",
    "--device",
    "cpu",
    "--precision",
    "float32",
]


@pytest.fixture
def run(tmp_path):
    """Runs `evalkit --home HOME ...` in this process."""

    def invoke(*arguments):
        return CliRunner().invoke(main, ["--home", str(tmp_path / "home"), *map(str, arguments)])

    return invoke


def assert_one_line(result, *parts):
    """An error: exit status 1 or 2, one line that holds all the parts, no traceback."""
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    assert "Traceback" not in result.output
    for part in parts:
        assert part in message, message


@pytest.fixture
def images(tmp_path):
    """One folder per class in two splits, 64 + 20 images of 40 x 36 pixels: reddish and bluish noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 10)):
        for channel, name in ((0, "red"), (2, "blue")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = random.integers(0, 160, (36, 40, 3), dtype=np.uint8)
                noise[..., channel] += 90
                Image.fromarray(noise).save(folder / f"{i}.png")
    return tmp_path / "images"


def test_the_three_commands_chain_without_options(run, images, tmp_path):
    assert run("prepare", images, "--name", "colours").exit_code == 0
    trained = run("train-gan", *SMALL)
    assert trained.exit_code == 0, trained.output
    assert "images: colours (84 images)" in trained.stderr
    assert "d-00000003" in trained.stdout
    extracted = run("extract", "--dataset", "colours", "--device", "cpu")
    assert "encoder: imagenet32@3, " in extracted.stderr
    assert extracted.stdout == "84 x 896 features of colours by imagenet32@3\n"
    fitted = run("svm", "--device", "cpu")
    assert f"features: {tmp_path / 'home/features/colours--imagenet32@3'} (84 x 896)" in fitted.stderr
    assert "colours, imagenet32@3, L2-SVM, labels per class: all: test accuracy 100.00 %" in fitted.stdout
    assert (
        run("svm", "--labels-per-class", 3, "--num-test-subsets", 4, "--features", "colours--imagenet32@3").exit_code
        == 0
    )
    reported = run("report")
    assert "colours, 3 labels per class: accuracy in %" in reported.stdout
    assert (tmp_path / "home/report.csv").read_text().count("\n") == 3
    table = read_results(tmp_path / "home/results.csv")
    assert table["protocol"].tolist() == ["3", "all"]
    assert table["n"].tolist() == [4, 1]


def test_an_artifact_found_finished_is_the_latest(run, images):
    run("prepare", images, "--name", "colours")
    for encoder in ("pixels", "random:digits", "pixels"):  # the last extraction finds its features finished
        assert run("extract", "--dataset", "colours", "--encoder", encoder).exit_code == 0
    assert "colours--pixels" in run("svm", "--labels-per-class", 2, "--num-test-subsets", 2).stderr


def test_reproduce_runs_only_what_is_missing(run, monkeypatch):
    small = dataclasses.replace(REPRODUCTIONS["digits"], labels_per_class=(1,), baselines=("random:digits",))
    monkeypatch.setitem(REPRODUCTIONS, "digits", small)
    monkeypatch.setitem(RECIPES, "digits", dataclasses.replace(RECIPES["digits"], d_updates=2, base_channels=4))
    first = run("reproduce", "digits", "--device", "cpu")
    assert first.exit_code == 0, first.output
    for encoder in ("digits@2", "random:digits"):
        assert first.stdout.count(f"{encoder} + L2-SVM") == 1
        assert (
            first.stderr.count(f"{encoder}, L2-SVM, labels per class: 1: test accuracy") == 1
        )  # as soon as it is known
    again = run("reproduce", "digits", "--device", "cpu")
    assert again.stdout == first.stdout
    assert "protocol: " not in again.stderr


def test_reproduce_uses_the_shipped_weights_unless_told_to_train(run, monkeypatch, tmp_path):
    small = dataclasses.replace(REPRODUCTIONS["digits"], labels_per_class=(1,), shipped="demo")
    monkeypatch.setitem(REPRODUCTIONS, "digits", small)
    monkeypatch.setitem(RECIPES, "digits", dataclasses.replace(RECIPES["digits"], d_updates=2, base_channels=4))
    monkeypatch.setattr(find, "shipped_folder", lambda: tmp_path / "shipped")
    options = ["--device", "cpu", "--no-baselines"]
    trained = run("reproduce", "digits", *options)  # nothing shipped yet
    assert trained.stdout.count("digits@2 + L2-SVM") == 1, trained.output
    checkpoint = tmp_path / "home/runs/digits/checkpoints/d-00000002"
    assert run("pretrained", "import", checkpoint, "--out", tmp_path / "shipped/demo").exit_code == 0
    taken = run("reproduce", "digits", *options)
    assert taken.stdout.count("pretrained:demo + L2-SVM") == 1, taken.output
    assert "run: " not in taken.stderr, taken.output
    table = read_results(tmp_path / "home/results.csv")
    assert len(table) == 2  # no baseline
    assert table["value"].nunique() == 1  # the same weights, the same result
    assert "run: " in run("reproduce", "digits", *options, "--train").stderr


def test_doctor_and_datasets_list_versions_and_image_sets(run, images):
    run("prepare", images, "--name", "colours")
    result = run("doctor")
    assert f"torch: {torch.__version__.split('+')[0]}" in result.stdout
    assert "colours: 32 x 32 pixels, train 64, test 20" in result.stdout
    assert "cifar10         -" in run("datasets").stdout


def test_log_messages_are_plain_lines_on_the_current_stderr():
    @click.command()
    def command():
        log_to_stderr()
        log_to_stderr()
        logger = logging.getLogger("evalkit.somewhere")
        logger.debug("not shown")
        logger.info("features: %s", "here")

    for _ in range(2):  # each CliRunner replaces sys.stderr
        result = CliRunner().invoke(command)
        assert result.stderr == "features: here\n"
        assert result.stdout == ""


def all_commands(group=main, *before):
    """Every command's words, and the command; of a group, its own too."""
    for name, command in group.commands.items():
        yield pytest.param((*before, name), command, id=" ".join((*before, name)))
        if isinstance(command, click.Group):
            yield from all_commands(command, *before, name)


@pytest.mark.parametrize(("words", "command"), list(all_commands()))
def test_help_has_an_example_and_every_option_is_explained(words, command):
    assert f"Example:\n    evalkit {' '.join(words)}" in CliRunner().invoke(main, [*words, "--help"]).output
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []


def test_python_m_evalkit_outside_the_repository(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "evalkit", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout.startswith("evalkit, version ")


# -- user errors


def test_missing_and_empty_sources(run, tmp_path):
    assert_one_line(run("prepare", tmp_path / "nowhere"), "nowhere")
    (tmp_path / "empty").mkdir()
    assert_one_line(run("prepare", tmp_path / "empty"), "empty")


def test_bad_images_are_named_counted_and_skipped_or_stop_a_strict_prepare(run, images):
    (images / "train/red/a.jpg").write_text("not an image")
    Image.new("RGB", (40, 40)).save(images / "train/red/b.jpg")
    whole = (images / "train/red/b.jpg").read_bytes()
    (images / "train/red/b.jpg").write_bytes(whole[: len(whole) // 2])
    result = run("prepare", images, "--name", "colours")
    assert result.exit_code == 0
    assert "skipped 2" in result.stderr
    assert "train/red/a.jpg" in result.stderr
    assert "train/red/b.jpg" in result.stderr
    assert_one_line(run("prepare", images, "--name", "strict", "--strict"), "train/red/a.jpg")


def test_unknown_names_list_the_choices(run, images):
    assert_one_line(run("train-gan", "--recipe", "dcgan"), "no such recipe; choose imagenet32, svhn")
    assert_one_line(run("extract", "--dataset", "cifar11"), "cifar10, ")
    run("prepare", images, "--name", "colours")
    assert_one_line(run("extract", "--dataset", "colours", "--encoder", "resnet"), "resnet: no such run")
    assert_one_line(run("svm", "--features", "mine"), "mine: no such feature set")
    assert_one_line(run("reproduce", "imagenet"), "is not one of")
    assert_one_line(run("train-gan", "--set", "lr"), "expected KEY=VALUE")


def test_commands_before_their_input_name_the_command_that_makes_it(run):
    assert_one_line(run("train-gan"), "evalkit prepare FOLDER")
    assert_one_line(run("svm"), "make one with `evalkit extract")
    assert_one_line(run("report"), "run `evalkit svm`")


def test_a_named_data_set_without_its_files_says_where_they_belong(run, tmp_path):
    assert_one_line(run("extract", "--no-download"), str(tmp_path / "home/downloads"), "cifar")


def test_one_class_and_too_few_labels(run, images):
    run("prepare", images, "--name", "colours")
    run("extract", "--dataset", "colours", "--encoder", "pixels")
    assert_one_line(run("svm", "--labels-per-class", 50), "needs 50 labels per class, class 0 has 26")
    run("prepare", images / "train/red", "--name", "flat")
    run("extract", "--dataset", "flat", "--encoder", "pixels")
    assert_one_line(run("svm"), "flat")


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
@pytest.mark.parametrize("command", [("extract", "--dataset", "colours", "--encoder", "pixels"), ("train-gan", *SMALL)])
def test_a_full_disk_is_one_line_and_keeps_finished_artifacts(run, images, tmp_path, command):
    """The limit on a file's size stands in for the full disk: both fail a write with an errno."""
    run("prepare", images, "--name", "colours")
    before = sorted((tmp_path / "home/images/colours").iterdir())

    def limit():
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    result = subprocess.run(
        [sys.executable, "-m", "evalkit", "--home", str(tmp_path / "home"), *command],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert sorted((tmp_path / "home/images/colours").iterdir()) == before
    assert not (tmp_path / "home/features/colours--pixels").exists()
    assert run(*command).exit_code == 0  # with space again, the same command does it


def test_toml_recipe_with_an_unknown_key(run, tmp_path):
    Path(tmp_path / "mine.toml").write_text("base = 'digits'\nlearning_rate = 1\n")
    assert_one_line(run("train-gan", "--recipe", tmp_path / "mine.toml"), "no setting 'learning_rate'; it has name")
