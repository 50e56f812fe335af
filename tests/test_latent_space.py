"""The latent space: sums, walks and inversions of generators with known answers (value), wrong z (failure)."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.errors import EvalkitError, ImageError
from evalkit.gan.networks import build_networks, to_images
from evalkit.gan.recipes import RECIPES, override
from evalkit.latent.invert import invert_images, read_image
from evalkit.latent.model import FrozenGAN, freeze_batch_norm, freeze_gan
from evalkit.latent.samples import (
    Concept,
    interpolate,
    interpolate_path,
    latent_arithmetic,
    latent_turn,
    latent_walk,
    neighbors,
    sample_gan,
    sample_truncated_z,
)
from evalkit.latent.settings import InvertSettings, SampleSettings, TurnSettings, WalkSettings
from evalkit.latent.vectors import parse_numbers, read_z

TINY = override(RECIPES["digits"], {"base_channels": 4, "z_dim": 8, "size": 16})
NORMAL = override(TINY, {"z_distribution": "normal"})


@pytest.fixture
def gan():
    return freeze_gan("tiny@0", *lively(TINY))


def lively(recipe, seed=0):
    """Networks with weights large enough that samples differ as a trained generator's do."""
    generator, discriminator = build_networks(recipe, seed=seed)
    with torch.no_grad():
        for parameter in (*generator.deconvs.parameters(), *discriminator.parameters()):
            parameter.mul_(5)
    return generator, discriminator


class Linear(torch.nn.Module):
    """A generator without any non-linearity: the image is a matrix times z."""

    def __init__(self, recipe):
        super().__init__()
        shape = (recipe.z_dim, recipe.channels, recipe.size, recipe.size)
        self.weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 30

    def forward(self, z, classes=None):
        return torch.einsum("nz,zchw->nchw", z, self.weight)


@pytest.fixture
def linear():
    return FrozenGAN("linear@0", TINY, Linear(TINY), build_networks(TINY, seed=0)[1])


# -- the frozen generator


def test_an_image_does_not_depend_on_the_others_of_its_batch(gan):
    z = gan.sample_z(40, seed=3)
    together, alone = gan.images(z), np.concatenate([gan.images(one[None]) for one in z])
    assert together.std() > 20  # of 255: images, not grey
    np.testing.assert_allclose(together.astype(int), alone, atol=1)  # float32 in another order may round otherwise


def test_reference_frozen_statistics_reproduce_their_own_batch():
    generator = lively(TINY)[0]
    z = torch.rand(50, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = generator.train()(z)
        freeze_batch_norm(generator, z, None)
        torch.testing.assert_close(generator(z), expected, rtol=0, atol=1e-5)  # float32, five layers of about 1
        assert (generator(2 * z) - generator.train()(2 * z)).abs().max() > 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_generates_samples(name):
    recipe = override(RECIPES[name], {"base_channels": 2})
    gan = freeze_gan("x@0", *build_networks(recipe, seed=0))
    found = sample_gan(gan, SampleSettings(count=3, columns=2))
    assert found.arrays["z"].shape == (3, recipe.z_dim)
    assert np.isfinite(found.tables["samples"]["score"]).all()


def test_a_conditional_generator_generates_the_class_asked_for():
    recipe = override(RECIPES["mnist"], {"base_channels": 2})
    networks = build_networks(recipe, seed=0)
    first, second = (freeze_gan("x@0", *networks, label=label) for label in (0, 7))
    z = first.sample_z(1, seed=0)
    assert not np.array_equal(first.images(z), second.images(z))
    with pytest.raises(EvalkitError, match="recipe mnist: class 10, expected 0 to 9"):
        freeze_gan("x@0", *networks, label=10)
    with pytest.raises(EvalkitError, match="has no classes, found class 1"):
        freeze_gan("x@0", *lively(TINY), label=1)


# -- sample


def test_samples_are_sorted_by_score_and_z_go_with_them(gan):
    found = sample_gan(gan, SampleSettings(count=12, columns=4, seed=5))
    scores = found.tables["samples"]["score"].to_numpy()
    assert np.all(np.diff(scores) <= 0)
    assert scores[0] > scores[-1]
    as_drawn = sample_gan(gan, SampleSettings(count=12, columns=4, seed=5, by_score=False))
    drawn = found.tables["samples"]["drawn"].to_numpy()
    assert np.array_equal(found.arrays["z"], as_drawn.arrays["z"][drawn])
    np.testing.assert_array_equal(scores, as_drawn.tables["samples"]["score"].to_numpy()[drawn])
    assert np.array_equal(as_drawn.arrays["z"], gan.sample_z(12, seed=5))


def test_truncated_z_stay_within_the_bound_and_keep_their_distribution(gan):
    z = sample_truncated_z(gan, 4000, truncate=0.5, seed=0)
    assert z.abs().max() <= 0.5
    assert z.var().item() == pytest.approx(0.25 / 3, rel=0.02)  # U(-t, t): t^2 / 3; 32,000 z
    normal = sample_truncated_z(freeze_gan("n@0", *build_networks(NORMAL, seed=0)), 4000, truncate=1, seed=0)
    # N(0, 1) within -1 to 1 has variance 1 - 2 phi(1) / (2 Phi(1) - 1) = 0.2911
    assert normal.abs().max() <= 1
    assert normal.var().item() == pytest.approx(0.2911, rel=0.02)
    with pytest.raises(EvalkitError, match="truncate 1.5: this generator's z lie in -1 to 1"):
        sample_truncated_z(gan, 1, truncate=1.5, seed=0)


# -- walk


def test_value_of_the_paths_between_two_z():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert interpolate(a, b, 0.25).tolist() == [0.75, 0.25]
    half = interpolate(a, b, 0.5, path="spherical")
    torch.testing.assert_close(half, torch.tensor([0.5, 0.5]).sqrt())  # on the circle, where the line cuts through
    third = interpolate(a, b, 1 / 3, path="spherical")
    torch.testing.assert_close(third, torch.tensor([0.75**0.5, 0.5]))  # 30 of 90 degrees
    assert interpolate(a, 2 * a, 0.5, path="spherical").tolist() == [1.5, 0]


@pytest.mark.parametrize("path", ["straight", "spherical"])
def test_a_walks_ends_and_corners_equal_their_samples(gan, path):
    z = gan.sample_z(3, seed=1)
    way = interpolate_path(z, steps=4, path=path)
    assert len(way) == 9
    assert torch.equal(way[::4], z)
    looped = latent_walk(gan, z, WalkSettings(steps=4, path=path, loop=True))
    assert np.array_equal(looped.arrays["z"], torch.cat([z, z[:1]]))
    assert looped.images["walk.gif"].content[:3] == b"GIF"


def test_walk_of_a_linear_generator_is_even(linear):
    """Rounding to 256 levels moves a step's distance by at most 1/255."""
    found = latent_walk(linear, linear.sample_z(2, seed=0), WalkSettings(steps=8)).measurements
    assert found["pixel_distance_of_a_step"] == pytest.approx(found["pixel_distance_of_the_largest_step"], abs=2e-3)
    assert 0 < found["pixel_distance_of_a_step_relative"] < 0.3
    with pytest.raises(EvalkitError, match="needs at least two z, found 1"):
        latent_walk(linear, linear.sample_z(1, seed=0))


# -- arithmetic and turn


def test_arithmetic_is_exact_for_a_linear_generator(linear):
    smiling, neutral, man = (linear.sample_z(3, seed=s) for s in range(3))
    found = latent_arithmetic(linear, [Concept(smiling), Concept(neutral, -1), Concept(man)])
    draw = linear.generator
    expected = draw(smiling).mean(0) - draw(neutral).mean(0) + draw(man).mean(0)
    result = draw(torch.from_numpy(found.arrays["z"][4:5]))[0]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)  # float32, values below 1
    assert np.array_equal(to_images(expected[None], TINY), linear.images(torch.from_numpy(found.arrays["z"][4:5])))
    offsets = np.delete(found.arrays["z"] - found.arrays["z"][4], 4, axis=0)
    assert offsets.shape == (8, 8)
    assert 0.2 < np.abs(offsets).max() <= 0.25
    with pytest.raises(EvalkitError, match="needs at least two concepts, found 1"):
        latent_arithmetic(linear, [Concept(man)])


def test_neighbors_depend_on_the_seed_alone():
    z = torch.zeros(4)
    first, again, other = (neighbors(z, noise=0.25, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_turn_moves_every_z_by_the_mean_difference(gan):
    left, right, onto = gan.sample_z(4, seed=0), gan.sample_z(4, seed=1), gan.sample_z(2, seed=2)
    found = latent_turn(gan, left, right, onto, TurnSettings(steps=5))
    rows = found.arrays["z"].reshape(2, 5, 8)
    vector = (right.mean(0) - left.mean(0)).numpy()
    assert np.array_equal(rows[:, 2], onto)
    np.testing.assert_allclose(rows[:, 4] - rows[:, 0], np.stack([2 * vector] * 2), rtol=1e-5, atol=1e-6)  # float32


# -- invert


def test_invert_recovers_a_known_z(gan):
    known = gan.sample_z(2, seed=11)
    found = invert_images(gan, gan.images(known), InvertSettings(steps=150, restarts=4, seed=0))
    errors = found.tables["errors"]
    assert (errors["error"] < 0.004).all()  # about 1 of 255: the rounding of the given image
    assert (errors["error_of_nearest_random"] > 20 * errors["error"]).all()
    np.testing.assert_allclose(found.arrays["z"], known, atol=0.02)  # what that rounding leaves open


def test_invert_reads_any_image_and_refuses_other_files(tmp_path):
    Image.new("L", (40, 20), 255).save(tmp_path / "white.png")
    assert np.array_equal(read_image(tmp_path / "white.png", TINY), np.full((16, 16, 3), 255, np.uint8))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match="text.png: not readable as an image"):
        read_image(tmp_path / "text.png", TINY)
    with pytest.raises(ImageError, match="none.png: no such file"):
        read_image(tmp_path / "none.png", TINY)


# -- z from files and from the contact sheet


def test_z_from_every_kind_of_file_and_by_number(tmp_path):
    z = np.arange(24, dtype=np.float32).reshape(3, 8) / 24
    np.save(tmp_path / "z.npy", z)
    (tmp_path / "z.json").write_text(json.dumps(z.tolist()))
    np.savetxt(tmp_path / "z.csv", z, delimiter=",")
    for name in ("z.npy", "z.json", "z.csv"):
        assert np.array_equal(read_z(str(tmp_path / name), z_dim=8), z)
    assert np.array_equal(read_z("2,0-1", z_dim=8, sheet=tmp_path), z[[2, 0, 1]])
    (tmp_path / "one.json").write_text(json.dumps(z[0].tolist()))
    assert np.array_equal(read_z(str(tmp_path / "one.json"), z_dim=8), z[:1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z.npy", "z of length 8, this generator takes length 100"),
        ("cube.npy", r"z in an array of shape \(2, 2, 2\), this generator takes length 100"),
        ("nan.csv", "not finite"),
        ("words.json", "not readable as rows of numbers"),
        ("pickled.npy", "not readable as rows of numbers"),
        ("missing.npy", "missing.npy: no such file"),
        ("z.txt", "expected z as numbers on a contact sheet, .npy, .json, .csv"),
    ],
)
def test_wrong_z_are_refused(tmp_path, text, message):
    np.save(tmp_path / "z.npy", np.zeros((2, 8)))
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "pickled.npy", np.array([None, {}]), allow_pickle=True)
    np.savetxt(tmp_path / "nan.csv", np.full((1, 100), np.nan), delimiter=",")
    (tmp_path / "words.json").write_text('["a"]')
    with pytest.raises(EvalkitError, match=message):
        read_z(str(tmp_path / text), z_dim=100)


def test_wrong_numbers_are_refused(tmp_path):
    with pytest.raises(EvalkitError, match="but there is none given; run `evalkit latent sample`"):
        read_z("1,2", z_dim=8)
    np.save(tmp_path / "z.npy", np.zeros((2, 8)))
    with pytest.raises(EvalkitError, match=r"0-2: there are numbers 0 to 1, not 2 \(the contact sheet in "):
        read_z("0-2", z_dim=8, sheet=tmp_path)
    with pytest.raises(EvalkitError, match="no number in 2-0; write the smaller one first"):
        read_z("2-0", z_dim=8, sheet=tmp_path)


@pytest.mark.parametrize("text", ["0-9999999999", "0-999999999999999999", "9" * 5000, "0-" + "9" * 5000])
def test_huge_ranges_are_refused_before_they_are_listed(tmp_path, text):
    np.save(tmp_path / "z.npy", np.zeros((2, 8)))
    for call in (lambda: parse_numbers(text), lambda: read_z(text, z_dim=8, sheet=tmp_path)):
        with pytest.raises(EvalkitError, match="number") as refused:
            call()
        assert len(str(refused.value)) < 400 + len(str(tmp_path))
