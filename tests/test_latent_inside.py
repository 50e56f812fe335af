"""Filters, forgetting and nearest neighbours on networks whose answers are worked out by hand (value)."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import write_image_set

from evalkit.errors import EvalkitError
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import RECIPES, Recipe, override
from evalkit.latent.filters import (
    gradients_as_images,
    guided_gradient,
    maximize_units,
    strongest_units,
    visualize_filters,
)
from evalkit.latent.forget import (
    Box,
    cells_in_boxes,
    drop_maps,
    forget_object,
    hidden_layer,
    map_weights,
    propose_boxes,
    read_boxes,
)
from evalkit.latent.invert import invert_images
from evalkit.latent.model import FrozenDiscriminator, FrozenGAN, freeze_gan
from evalkit.latent.nearest import (
    ComparisonImages,
    compare_distances,
    comparison_images,
    memorization,
)
from evalkit.latent.settings import FilterSettings, ForgetSettings, InvertSettings

# every convolution is 1x1, so that each pixel is its own small network
POINT = Recipe(
    "point", size=16, kernel=1, base_channels=1, z_dim=4, d_channel_mults=(3, 1), d_strides=(1, 1),
    g_channel_mults=(4, 4, 4),
    g_strides=(1, 1, 1),
)  # fmt: skip
GRAY = override(POINT, {"channels": 1})


def freeze_as_identity(network):
    """Batch norms that leave their input as it is."""
    for norm in network.modules():
        if isinstance(norm, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            norm.running_mean, norm.running_var = torch.zeros(norm.num_features), torch.ones(norm.num_features)
            torch.nn.init.ones_(norm.weight)
    return network.eval()


def point_discriminator(first, second, recipe=GRAY):
    """D with given weights: `first` of conv1's maps on each channel, `second` of conv2's map on conv1's."""
    discriminator = freeze_as_identity(build_networks(recipe, seed=0)[1])
    with torch.no_grad():
        discriminator.blocks[0].conv.weight[:] = torch.tensor(first)[:, None, None, None]
        discriminator.blocks[1].conv.weight[:] = torch.tensor(second)[None, :, None, None]
    return discriminator


# -- guided backpropagation and gradient ascent


def test_value_of_guided_backpropagation_through_two_layers():
    """x = 1: conv1 gives 2, -1 and 1, conv2 4 x 2 + 1 x (-0.2) - 1 x 1 = 6.8.

    The gradients at conv1's maps are 4, 1 and -1: the second map's input is negative, the third's gradient is. What
    passes is 4 x 2 = 8 (the plain gradient is 8 - 0.2 - 1 = 6.8). x = -1: conv2 gives 4 x (-0.4) + 1 + 0.2 = -0.4,
    not positive, so nothing passes.
    """
    discriminator = point_discriminator([2.0, -1.0, 1.0], [4.0, 1.0, -1.0])
    images = torch.full((2, 1, 16, 16), 9.0)
    images[0, 0, 5, 7], images[1, 0, 5, 7] = 1.0, -1.0
    units = torch.tensor([[0, 5, 7], [0, 5, 7]])
    gradient = guided_gradient(discriminator, images, None, layer=1, units=units)
    expected = torch.zeros(2, 1, 16, 16)
    expected[0, 0, 5, 7] = 8
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)  # eps 1e-8 in batch norm
    # at the first layer the map's own weight is left, where its response is positive
    units[:, 0] = 1
    first = guided_gradient(discriminator, images, None, layer=0, units=units)
    assert first[:, 0, 5, 7].tolist() == [0, -1]
    assert first.abs().sum() == 1


def test_value_of_gradients_as_images():
    gradient = torch.zeros(1, 1, 1, 3)
    gradient[0, 0, 0] = torch.tensor([-2.0, 0, 1])
    assert gradients_as_images(gradient).ravel().tolist() == [0, 128, 191]


def test_ascent_drives_the_middle_unit_to_the_end_of_the_range():
    """Only the middle pixel has a gradient, shared with its neighbours; they go to white (or black), others fade."""
    discriminator = point_discriminator([2.0, -1.0, 1.0], [3.0, 1.0, -1.0])
    start = torch.full((2, 1, 16, 16), 0.5)
    made, responses = maximize_units(
        discriminator, None, layer=0, features=torch.tensor([0, 1]), start=start, steps=30, decay=0.01
    )
    assert (made[0, 0, 7:10, 7:10] == 1).all()
    assert (made[1, 0, 7:10, 7:10] == -1).all()
    assert responses.tolist() == [2, 1]
    torch.testing.assert_close(made[:, 0, 0, 0], torch.full((2,), 0.5 * 0.99**30))


def test_the_strongest_units_are_the_planted_ones():
    gan = freeze_gan("point@0", build_networks(GRAY, seed=0)[0], point_discriminator([1.0, -1.0, 0.5], [1.0, 0.0, 0.0]))
    images = np.full((20, 16, 16, 1), 128, np.uint8)
    images[13, 2, 9], images[4, 11, 3], images[7, 6, 6] = 255, 230, 0
    found = strongest_units(FrozenDiscriminator(gan, statistics_from=images), images, "conv1", [0, 1], top=2)
    assert found[["feature", "rank", "row", "y", "x"]].to_numpy().tolist()[:3] == [
        [0, 0, 13, 2, 9], [0, 1, 4, 11, 3], [1, 0, 7, 6, 6],
    ]  # fmt: skip
    assert found["response"][0] == 1
    shown = visualize_filters(gan, images, FilterSettings(layer="conv1", features=(0,), top=2, steps=40))
    table = shown.tables["units"].set_index(["weights", "rank"])
    assert table.loc[("trained", 0), "row"] == 13
    assert table.loc[("trained", 0), "response_of_input"] == 1
    assert {"guided-trained.png", "guided-random.png", "maximized-trained.png"} <= shown.images.keys()
    with pytest.raises(EvalkitError, match="its discriminator has no layer 'conv7'; choose conv1, conv2"):
        visualize_filters(gan, images, FilterSettings(layer="conv7"))
    with pytest.raises(EvalkitError, match="conv1: has features 0 to 2, not 3"):
        visualize_filters(gan, images, FilterSettings(layer="conv1", features=(0, 3)))


# -- forget


def planted_generator():
    """Draws squares on map 0 (from z 0 at the upper left, z 1 at the lower right) and a background on maps 1 to 3.

    The background never covers the places of the squares, so that only map 0 speaks for them.
    """
    generator = freeze_as_identity(build_networks(POINT, seed=0)[0])
    weight = torch.zeros(4, 16, 16, 4)  # maps, rows, columns, z
    weight[0, 4:8, 4:8, 0] = weight[0, 9:13, 8:12, 1] = 2
    weight[1, :, ::2, 2], weight[2, ::2, :, 3], weight[3, 8:, :, 2] = 1, 1, -1
    weight[1:, 4:8, 4:8] = weight[1:, 9:13, 8:12] = 0
    with torch.no_grad():
        generator.linears[0].weight[:] = weight.reshape(-1, 4)
        for deconv in generator.deconvs[:-1]:
            deconv.weight[:] = torch.eye(4)[:, :, None, None]
        generator.deconvs[-1].weight[:] = torch.rand((4, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    generator.requires_grad_(False)
    return FrozenGAN("planted@0", POINT, generator, build_networks(POINT, seed=0)[1])


def planted_boxes(z):
    places = ((0, (4, 4, 8, 8)), (1, (8, 9, 12, 13)))
    return [Box(n, *box) for n, row in enumerate(z) for entry, box in places if row[entry] > 0]


def test_forget_removes_the_planted_object_and_nothing_else():
    gan = planted_generator()
    z = gan.sample_z(40, seed=0)
    found = forget_object(gan, z, planted_boxes(z))
    assert found.settings["layer"] == "deconv1"  # the second highest
    assert found.tables["maps"]["dropped"].tolist() == [True, False, False, False]
    figures = found.measurements
    assert figures["change_outside"] == 0 < 40 < figures["change_inside"]
    assert figures["change_outside_random_maps"] > 0
    # nothing is left of the squares: the same images as from z without them
    without = z.clone()
    without[:, :2] = 0
    with drop_maps(hidden_layer(gan, None), [0]):
        assert np.array_equal(gan.images(z), gan.images(without))
    assert not np.array_equal(gan.images(z), gan.images(without))  # the maps are back


def test_value_of_map_weights():
    """Map 0 is on inside, map 1 outside, map 2 everywhere: weights above, below and at 0."""
    inside = np.zeros((3, 4, 4), bool)
    inside[:, 1:3, 1:3] = True
    maps = np.stack([inside, ~inside, np.ones_like(inside)], axis=1).astype(np.float32)
    weights, accuracy, cells = map_weights(maps, inside, seed=0)
    assert weights[0] > 1
    assert weights[1] == pytest.approx(-weights[0], rel=1e-3)  # lbfgs' tolerance
    assert abs(weights[2]) < 1e-4
    assert accuracy == 100
    assert cells == 24
    with pytest.raises(EvalkitError, match="cover their samples completely"):
        map_weights(maps, np.ones_like(inside), seed=0)


def test_value_of_cells_under_a_box():
    cells = cells_in_boxes([Box(1, 4, 0, 9, 8)], samples=2, size=16, side=4)
    # columns 4 to 8 touch cells 1 and 2, rows 0 to 7 cells 0 and 1
    assert cells[0].sum() == 0
    assert np.argwhere(cells[1]).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]


def test_proposed_boxes_enclose_what_the_feature_responds_to():
    gan = freeze_gan("point@0", build_networks(GRAY, seed=0)[0], point_discriminator([1.0, -1.0, 0.1], [1.0, 0.0, 0.0]))
    images = np.full((10, 16, 16, 1), 100, np.uint8)  # darker than the middle: no response
    images[3, 5:9, 2:7], images[8, 0:3, 10:16] = 255, 220
    discriminator = FrozenDiscriminator(gan, statistics_from=images)
    boxes, by = propose_boxes(discriminator, images, layer="conv1", feature=0, count=5)
    assert boxes == [Box(3, 2, 5, 7, 9), Box(8, 10, 0, 16, 3)]
    assert by == {"layer": "conv1", "feature": 0}
    assert propose_boxes(discriminator, images, layer="conv1", count=1)[1]["feature"] in (
        0,
        2,
    )  # rare, not 1
    with pytest.raises(EvalkitError, match="conv1, feature 0: responds to no sample"):
        propose_boxes(discriminator, images[:2], layer="conv1", feature=0)
    with pytest.raises(EvalkitError, match="conv1: has features 0 to 2, not 9"):
        propose_boxes(discriminator, images, layer="conv1", feature=9)


def test_unknown_layer_of_the_generator_is_refused():
    gan = planted_generator()
    z = gan.sample_z(4, seed=0)
    with pytest.raises(EvalkitError, match="has no layer 'deconv9'; choose first, deconv1, deconv2"):
        forget_object(gan, z, [Box(0, 0, 0, 4, 4)], ForgetSettings(layer="deconv9"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "boxes.json: there is no box"),
        ([{"sample": 0, "box": [0, 0, 17, 4]}], r"box \[0, 0, 17, 4\] of sample 0 is empty or outside the image"),
        ([{"sample": 0, "box": [-1, 0, 3, 4]}], "within 0 to 16"),
        ([{"sample": 0, "box": [5, 0, 5, 4]}], "is empty or outside"),
        ([{"sample": 9, "box": [0, 0, 4, 4]}], "a box of sample 9, but the samples are 0 to 3"),
        ([{"sample": 0, "box": [0, 0, 4]}], 'expected {"sample": 3, "box"'),
        ([{"sample": 0, "box": [0, 0, 4, 2.5]}], "in whole pixels"),
        ([7], "found 7, expected"),
        ({"sample": 0}, "expected a list like"),
    ],
)
def test_wrong_boxes_are_refused(tmp_path, content, message):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(EvalkitError, match=message):
        read_boxes(path, samples=4, size=16)


def test_files_without_boxes_are_refused(tmp_path):
    with pytest.raises(EvalkitError, match="boxes.json: no such file"):
        read_boxes(tmp_path / "boxes.json", samples=4, size=16)
    (tmp_path / "boxes.json").write_text("[{")
    with pytest.raises(EvalkitError, match="not readable as JSON"):
        read_boxes(tmp_path / "boxes.json", samples=4, size=16)


def test_every_experiment_runs_on_a_conditional_generator_of_gray_images(tmp_path):
    """Classes and a single channel, which the digits' network does not have."""
    gan = freeze_gan("mnist@0", *build_networks(override(RECIPES["mnist"], {"base_channels": 2}), seed=0), label=3)
    z = gan.sample_z(5, seed=0)
    found = forget_object(gan, z, [Box(1, 3, 3, 9, 9), Box(4, 20, 0, 28, 8)])
    assert found.settings["layer"] == "first"
    assert found.measurements["maps"] == 4  # of two hidden layers the lower
    real_images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), dtype=np.uint8).repeat(3, axis=3)
    assert (
        visualize_filters(gan, real_images, FilterSettings(features=(0,), steps=1)).tables["units"]["response"] > 0
    ).all()
    images = write_image_set(tmp_path / "digits", real_images, np.zeros(8, np.int64), {"train": (0, 6), "test": (6, 8)})
    assert compare_distances(gan, z, comparison_images(images)).tables["nearest"]["pixel_row"].max() < 6
    inverted = invert_images(gan, real_images[:1], InvertSettings(steps=2, restarts=1))
    assert np.isfinite(inverted.measurements["error_mean"])
    assert inverted.arrays["z"].shape == (1, 100)
    boxes, by = propose_boxes(FrozenDiscriminator(gan), gan.images(z), count=2)
    assert len(boxes) == 2
    assert by["layer"] == "conv1"


# -- nearest


@pytest.fixture
def noise_set(tmp_path):
    """300 training and 60 test images of smooth noise, four of the training ones replaced by samples of the GAN."""
    gan = planted_generator()
    gan.discriminator.load_state_dict(build_networks(POINT, seed=4)[1].state_dict())
    coarse = np.random.default_rng(0).integers(0, 256, (360, 4, 4, 3), dtype=np.uint8)
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    z = gan.sample_z(4, seed=9)
    images[[17, 120, 44, 299]] = gan.images(z)
    return (
        gan,
        z,
        write_image_set(tmp_path / "noise", images, np.zeros(360, np.int64), {"train": (0, 300), "test": (300, 360)}),
    )


@pytest.mark.parametrize("feature_images", [0, 20])
def test_nearest_finds_planted_copies(noise_set, feature_images):
    gan, z, images = noise_set
    found = compare_distances(gan, z, comparison_images(images), feature_images=feature_images)
    samples = found.tables["nearest"].query("kind == 'sample'")
    assert samples["pixel_row"].tolist() == samples["feature_row"].tolist() == [17, 120, 44, 299]
    assert (samples["pixel_distance"] == 0).all()
    assert (samples["feature_distance"] < 1e-3).all()
    assert found.measurements["pixel_share_near_percent"] == found.measurements["feature_chance_nearer_percent"] == 100
    assert found.settings["held_out"] == "noise, test"


def test_training_images_are_compared_with_each_other_if_none_are_held_out(noise_set, tmp_path):
    gan, z, images = noise_set
    only = write_image_set(tmp_path / "only", np.array(images.images[:50]), np.zeros(50, np.int64), {"train": (0, 50)})
    against = comparison_images(only, count=10)
    found = compare_distances(gan, z, against)
    real = found.tables["nearest"].query("kind == 'held out'")
    flat = only.images.reshape(50, -1) / 255
    distances = np.linalg.norm(flat[against.own][:, None] - flat, axis=2)
    distances[np.arange(10), against.own] = np.inf
    np.testing.assert_allclose(real["pixel_distance"], distances.min(1), rtol=1e-5)  # float32, 768 terms
    assert real["pixel_row"].tolist() == distances.argmin(1).tolist()
    assert found.settings["held_out"] == "training images, each to the others"


def test_value_of_the_memorization_measurements():
    kinds = ["sample"] * 2 + ["held out"] * 4
    table = pd.DataFrame({"kind": kinds, "pixel_distance": [1, 30, 10, 20, 30, 40], "feature_distance": [50] * 6})
    found = memorization(table)
    # the 5th percentile of 10 to 40 is 11.5; of 8 pairs, 4 + 1 are nearer and one is equal
    assert found["pixel_share_near_percent"] == 50
    assert found["pixel_chance_nearer_percent"] == 100 * 5.5 / 8
    assert found["feature_share_near_percent"] == 0
    assert found["feature_chance_nearer_percent"] == 50


def test_held_out_images_of_another_size_are_refused(noise_set, striped):
    with pytest.raises(EvalkitError, match="striped: images are 32 pixels wide, those trained on 16"):
        comparison_images(noise_set[2], held_out=striped)


def test_comparison_takes_a_random_part_of_the_training_images(noise_set):
    against = comparison_images(noise_set[2], num_images=40, count=5)
    assert isinstance(against, ComparisonImages)
    assert len(set(against.training)) == 40
    assert against.training.max() < 300
    assert len(against.held_out) == 5
    assert (against.own == -1).all()
