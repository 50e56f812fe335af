"""`evalkit latent` end to end on a small trained run, the folders it leaves, and what users get wrong as one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import write_image_set
from PIL import Image
from safetensors.torch import load_file

import evalkit
import evalkit.latent
from evalkit.artifacts import read_manifest, sha256_file
from evalkit.cli import main
from evalkit.errors import EvalkitError
from evalkit.gan.recipes import RECIPES, override
from evalkit.gan.train import TrainOptions, train
from evalkit.images import load_images
from evalkit.latent.experiment import KIND, gallery
from evalkit.latent.model import open_gan
from evalkit.latent.settings import FilterSettings, WalkSettings
from evalkit.workspace import Workspace

TINY = override(RECIPES["imagenet32"], {"base_channels": 2, "z_dim": 8, "batch_size": 32, "d_updates": 2})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A workspace with images and a run of two updates, with the contact sheet of `sample`."""
    home = tmp_path_factory.mktemp("latent") / "home"
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (120, 4, 4, 3), dtype=np.uint8)
    real_images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    images = write_image_set(
        home / "images/noise", real_images, np.zeros(120, np.int64), {"train": (0, 100), "test": (100, 120)}
    )
    train(images, home / "runs/tiny", TINY, options=TrainOptions(device="cpu", precision="float32"))
    Image.fromarray(real_images[110]).resize((50, 40)).save(home / "given.png")
    assert CliRunner().invoke(main, ["--home", str(home), "latent", "sample", "--count", "20"]).exit_code == 0
    return home


@pytest.fixture
def latent(home):
    def invoke(*arguments):
        return CliRunner().invoke(main, ["--home", str(home), "latent", *map(str, arguments)])

    return invoke


def assert_one_line(result, *parts):
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    assert "Traceback" not in result.output
    for part in parts:
        assert part in message, message


COMMANDS = {
    "sample": (["--count", 20, "--seed", 3, "--truncate", 0.5], {"sheet.png", "grid.png", "samples.csv", "z.npy"}),
    "walk": (["--z", "3,17,0-1", "--loop", "--path", "spherical"], {"walk.png", "walk.gif", "steps.csv", "z.npy"}),
    "arithmetic": (
        ["--plus", "3,17,4", "--minus", "1,5,9", "--plus", "2,10,11"],
        {"arithmetic.png", "concepts.npy", "z.npy"},
    ),
    "turn": (["--start", "0-3", "--end", "4-7", "--count", 2], {"turn.png", "vector.npy", "z.npy"}),
    "nearest": (["--count", 5, "--feature-images", 20], {"nearest.png", "nearest.csv", "z.npy"}),
    "filters": (["--features", "0-2,7", "--top", 2, "--steps", 3], {"guided-random.png", "maximized-trained.png"}),
    "forget": (["--count", 30], {"forget.png", "samples.png", "boxes.json", "maps.csv", "z.npy"}),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_determinism_of_every_command(latent, tmp_path, command):
    """Two runs, equal bytes; the manifest says from what."""
    options, files = COMMANDS[command]
    for name in ("a", "b"):
        result = latent(command, *options, "--out", tmp_path / name, "--run", "tiny@2")
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{tmp_path / name}\n", result.output
        assert "run: tiny@2, " in result.stderr
    manifest = read_manifest(tmp_path / "a", KIND, check_hashes=True)
    assert manifest["command"] == command
    assert manifest["settings"]["gan"] == "tiny@2"
    assert len(manifest["made_from"]["generator_sha256"]) == 64
    assert command == "turn" or "seed" in manifest["settings"]
    found = {path.name for path in (tmp_path / "a").iterdir()}
    assert found >= files | {"measurements.json", "manifest.json"}
    for name in found - {"manifest.json"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_next_command_takes_the_z_of_invert(latent, home, tmp_path):
    inverted = latent("invert", home / "given.png", "--steps", 3, "--restarts", 2, "--out", tmp_path / "z")
    assert inverted.exit_code == 0, inverted.output
    assert latent("walk", "--z", tmp_path / "z/z.npy", "--out", tmp_path / "w").exit_code == 1  # one z is no walk
    both = latent("turn", "--start", tmp_path / "z/z.npy", "--end", "3", "--onto", "1", "--out", tmp_path / "t")
    assert both.exit_code == 0
    assert np.array_equal(np.load(tmp_path / "t/start.npy"), np.load(tmp_path / "z/z.npy"))


def test_boxes_of_forget_can_be_edited_and_passed_back(latent, tmp_path):
    assert latent("forget", "--count", 30, "--out", tmp_path / "auto").exit_code == 0
    boxes = json.loads((tmp_path / "auto/boxes.json").read_text())[:3]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    by_hand = latent(
        "forget", "--count", 30, "--boxes", tmp_path / "boxes.json", "--layer", "first", "--out", tmp_path / "b"
    )
    assert by_hand.exit_code == 0, by_hand.output
    settings = read_manifest(tmp_path / "b", KIND)["settings"]
    assert (settings["boxes"], settings["layer"], settings["proposed_by"]) == (3, "first", None)
    assert json.loads((tmp_path / "b/boxes.json").read_text()) == boxes


def test_gallery_lists_the_images_of_a_workspace(latent, home, tmp_path):
    assert latent("walk", "--count", 2, "--steps", 2).exit_code == 0
    found = gallery(home / "latent")
    titles = {image.path.name: image.title for image in found}
    assert titles["walk.png"] == "tiny@2: a straight walk through 2 z, one leg per line"
    assert [image.path.name for image in gallery(home / "latent/tiny@2--sample")] == ["sheet.png", "grid.png"]
    assert {image.path.read_bytes()[1:4] for image in found} == {b"PNG"}
    broken = home / "latent/tiny@2--walk/walk.png"
    broken.write_bytes(broken.read_bytes()[:-1])
    assert "walk.png" not in {image.path.name for image in gallery(home / "latent")}
    assert gallery(tmp_path / "nowhere") == []


def test_pretrained_weights_generate_the_images_of_their_run(latent, home, tmp_path):
    path = str(home / "runs/tiny")
    imported = CliRunner().invoke(
        main, ["--home", str(home), "pretrained", "import", path, "--name", "mine", "--licence", "MIT"]
    )
    assert imported.exit_code == 0, imported.output
    for run, name in (("pretrained:mine", "a"), ("tiny", "b")):
        assert latent("sample", "--count", 5, "--run", run, "--out", tmp_path / name).exit_code == 0
    for file in ("sheet.png", "samples.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert latent("walk", "--run", "pretrained:mine", "--count", 2, "--steps", 1).exit_code == 0
    assert (home / "latent/pretrained-mine--walk/walk.png").is_file()


def test_moving_average_of_the_weights_is_loaded_if_there_is_one(home):
    images = load_images(home / "images/noise")
    recipe = override(TINY, {"g_ema": 0.9, "d_ema": 0.9})
    checkpoint = train(images, home / "runs/averaged", recipe, options=TrainOptions(device="cpu", precision="float32"))
    gan = open_gan(checkpoint)
    drawing, trained = (load_file(checkpoint / f"{name}.safetensors") for name in ("generator_average", "generator"))
    assert torch.equal(gan.generator.deconvs[0].weight, drawing["deconvs.0.weight"])
    assert not torch.equal(drawing["deconvs.0.weight"], trained["deconvs.0.weight"])
    average = load_file(checkpoint / "discriminator_average.safetensors")
    assert torch.equal(gan.discriminator.blocks[0].conv.weight, average["blocks.0.conv.weight"])
    expected = sha256_file(checkpoint / "discriminator_average.safetensors")
    assert gan.made_from["discriminator_average_sha256"] == expected
    shutil.rmtree(home / "runs/averaged")  # the latest run is `tiny` again


# -- from Python


def test_experiments_take_objects_without_a_workspace(home):
    gan = evalkit.open_gan(home / "runs/tiny")
    assert evalkit.open_gan(gan) is gan
    z = gan.sample_z(3, seed=0).numpy()
    walk = evalkit.latent_walk(gan, z, WalkSettings(steps=2))
    np.testing.assert_array_equal(walk.arrays["z"], z)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    filters = evalkit.visualize_filters(gan, images, FilterSettings(features=(0,), steps=1))
    assert filters.settings["images"] == 4
    nearest = evalkit.nearest_training_images(gan, z, images=load_images(home / "images/noise"))
    assert nearest.settings["training_images"] == 100
    with pytest.raises(EvalkitError, match=r"z of shape \(3, 4\), tiny@2 takes \(N, 8\)"):
        evalkit.latent_walk(gan, z[:, :4])


def test_experiment_finds_training_images_in_its_workspace(home):
    gan = evalkit.open_gan("tiny@2", home=home)
    filters = evalkit.visualize_filters(gan, settings=FilterSettings(features=(0,), steps=1), home=home)
    assert filters.settings["images"] == 100


def test_every_public_name_of_latent_can_be_imported():
    assert [name for name in evalkit.latent.__all__ if not hasattr(evalkit.latent, name)] == []


# -- what users get wrong


def test_wrong_z_runs_and_layers_are_one_line(latent, home, tmp_path):
    np.save(tmp_path / "long.npy", np.zeros((3, 100)))
    assert_one_line(
        latent("walk", "--z", tmp_path / "long.npy"), "long.npy: z of length 100, this generator takes length 8"
    )
    assert_one_line(latent("walk", "--z", "3,20"), "there are numbers 0 to 19, not 20")
    assert_one_line(latent("sample", "--run", "mine"), "mine: no such run; in", "tiny")
    assert_one_line(latent("sample", "--run", "tiny@9"), "no checkpoint after 9 D updates; it has 2")
    assert_one_line(latent("sample", "--class", 1), "has no classes, found class 1")
    assert_one_line(latent("sample", "--truncate", 2), "lie in -1 to 1")
    assert_one_line(latent("filters", "--layer", "conv9"), "no layer 'conv9'; choose conv1, conv2")
    assert_one_line(latent("filters", "--features", "many"), "many: expected numbers")
    assert_one_line(latent("forget", "--layer", "conv1"), "no layer 'conv1'; choose first, deconv1")
    assert_one_line(latent("forget", "--propose-layer", "deconv1"), "no layer 'deconv1'; choose conv1")
    assert_one_line(latent("invert", tmp_path / "none.png"), "none.png: no such file")
    assert_one_line(latent("arithmetic", "--plus", "1,2"), "needs at least two concepts, found 1")
    assert_one_line(latent("nearest", "--images", "mine"), "mine: no such image set")


@pytest.mark.parametrize(
    ("boxes", "message"),
    [([], "there is no box"), ([{"sample": 1, "box": [20, 20, 40, 30]}], "is empty or outside the image")],
)
def test_wrong_boxes_are_one_line(latent, tmp_path, boxes, message):
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    assert_one_line(latent("forget", "--boxes", tmp_path / "boxes.json"), "boxes.json: ", message)


def test_missing_training_images_are_one_line(home, tmp_path):
    other = tmp_path / "other"
    os.makedirs(other)
    os.symlink(home / "runs", other / "runs")
    result = CliRunner().invoke(main, ["--home", str(other), "latent", "filters"])
    assert_one_line(result, "tiny@2: the images it was trained on are not in", "--images")


def test_folder_of_something_else_is_not_replaced(latent, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert_one_line(
        latent("sample", "--count", 2, "--out", tmp_path / "mine"),
        "mine: exists and is not the folder of an experiment",
    )
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    assert Workspace(tmp_path).artifacts("experiment") == []


def test_explore_prints_its_address_and_stops_on_an_interrupt(home):
    command = [sys.executable, "-m", "evalkit", "--home", str(home), "latent", "explore", "--port", "0", "--count", "2"]
    heeding = {
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    }  # not so in background jobs
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heeding)
    try:
        address = process.stdout.readline().strip()
        open_ = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        assert json.loads(open_(address + "about.json", timeout=120).read()) == {"gan": "tiny@2", "count": 2}
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.communicate()
