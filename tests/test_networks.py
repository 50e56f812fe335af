"""Networks and recipes against the paper's numbers (pinned) and the recipe reader's errors (failure)."""

import numpy as np
import pytest
import torch

from evalkit.errors import EvalkitError
from evalkit.gan.networks import (
    Discriminator,
    Generator,
    build_networks,
    draw_z,
    join_classes,
    to_images,
    to_network_range,
)
from evalkit.gan.recipes import RECIPES, load_recipe, override


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "d_parameters", "layers"),
    [
        ("imagenet32", 4_586_112, [(128, 32), (128, 16), (256, 16), (256, 8), (512, 8), (512, 4)]),
        ("svhn", 1_033_664, [(64, 16), (128, 8), (256, 4)]),
        ("lsun64", 17_232_768, [(128, 32), (256, 16), (512, 8), (1024, 4)]),
        ("mnist", 6_688_202, [(64, 14), (128, 7)]),
    ],
)
def test_pinned_sizes_of_discriminators(name, d_parameters, layers):
    recipe = RECIPES[name]
    discriminator = Discriminator(recipe)
    images = torch.zeros(2, recipe.channels, recipe.size, recipe.size)
    classes = torch.eye(recipe.classes)[:2] if recipe.classes else None
    assert count(discriminator) == d_parameters
    assert [tuple(t.shape[1:]) for t in discriminator.layer_outputs(images, classes).values()] == [
        (m, s, s) for m, s in layers
    ]


def test_pinned_parameters_of_the_imagenet_generator():
    # 256 x 8192 + 2 x 8192 (a gain and a bias per unit), then 9 x in x out and 2 x out a deconv, none on the last
    maps = [512, 512, 256, 256, 128, 128]
    deconvs = sum(9 * a * b + 2 * b for a, b in zip(maps, maps[1:], strict=False)) + 9 * 128 * 3
    assert count(Generator(RECIPES["imagenet32"])) == 256 * 8192 + 2 * 8192 + deconvs == 6_690_688


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_generates_images_of_its_size_and_range(name):
    recipe = RECIPES[name]
    generator, discriminator = build_networks(override(recipe, {"base_channels": 4}), seed=1)
    classes = torch.eye(recipe.classes)[:3] if recipe.classes else None
    images = generator(draw_z(3, recipe, torch.Generator().manual_seed(0)), classes)
    assert images.shape == (3, recipe.channels, recipe.size, recipe.size)
    assert images.min() >= (-1 if recipe.output == "tanh" else 0) and images.max() <= 1
    assert discriminator(images, classes).shape == (3,)


@pytest.mark.parametrize("name", ["imagenet32", "svhn", "faces64"])
def test_discriminator_in_training_mode_does_not_see_the_contrast_of_a_batch(name):
    discriminator = build_networks(override(RECIPES[name], {"base_channels": 8, "norm_eps": 1e-12}), seed=1)[1].train()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if name == "faces64":
        images = images.repeat(1, 1, 2, 2)
    torch.testing.assert_close(discriminator(images / 4), discriminator(images), rtol=1e-4, atol=1e-6)


def test_value_of_initial_weights():
    generator, discriminator = build_networks(RECIPES["imagenet32"], seed=0)
    weight, gain = discriminator.blocks[5].conv.weight, generator.linear_norms[0].weight
    # 2.4 million and 8,192 draws: the standard error of a std is std / sqrt(2 n)
    assert weight.std().item() == pytest.approx(0.02, rel=5e-3)
    assert gain.mean().item() == pytest.approx(1, abs=1e-3) and gain.std().item() == pytest.approx(0.02, rel=5e-2)
    assert generator.linear_norms[0].bias.abs().max() == 0


def test_equal_seeds_give_equal_weights_and_others_do_not():
    first, again, other = (build_networks(RECIPES["digits"], seed=s)[1].out.weight for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_value_of_network_range():
    white_black = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    torch.testing.assert_close(
        to_network_range(white_black, RECIPES["imagenet32"]).flatten(), torch.tensor([1, -1, -0.6])
    )
    torch.testing.assert_close(to_network_range(white_black, RECIPES["mnist"]).flatten(), torch.tensor([1.0]))


@pytest.mark.parametrize("name", ["imagenet32", "mnist"])
def test_round_trip_of_images_through_the_network_range(name):
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    back = to_images(to_network_range(every_value, RECIPES[name]), RECIPES[name])
    assert np.array_equal(back, every_value[..., : RECIPES[name].channels])


def test_value_of_joined_classes():
    maps, one_hot = torch.full((1, 1, 2, 2), 7.0), torch.tensor([[0.0, 1.0]])
    expected = torch.tensor([[[[7.0, 7], [7, 7]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]])
    assert torch.equal(join_classes(maps, one_hot), expected)


def test_moments_of_z():
    random = torch.Generator().manual_seed(0)
    uniform, normal = draw_z(500, RECIPES["imagenet32"], random), draw_z(500, RECIPES["svhn"], random)
    assert uniform.abs().max() <= 1
    assert uniform.var().item() == pytest.approx(1 / 3, rel=0.02)  # 128,000 draws
    assert normal.abs().max() > 3
    assert normal.var().item() == pytest.approx(1, rel=0.02)


def test_toml_recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "svhn"\nlr = 0.001\nd_channel_mults = [1, 2, 2]\nschedule = "both"\n')
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.lr, recipe.d_channel_mults, recipe.schedule, recipe.z_distribution) == (
        "mine", 0.001, (1, 2, 2), "both", "normal",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": "1"}, "no setting 'learning_rate'; it has name, images"),
        ({"lr": "fast"}, "lr = 'fast': expected a number"),
        ({"base_channels": "1.5"}, "base_channels = 1.5: expected an integer"),
        ({"schedule": "sometimes"}, "schedule = 'sometimes', expected alternate or both"),
        ({"d_channel_mults": "[1, 2]"}, "d_channel_mults and d_strides differ in length"),
        ({"size": "36"}, "size 36 is no multiple of 8"),
        ({"batch_size": "0"}, "batch_size = 0, expected at least 2"),
    ],
)
def test_bad_recipe_values_are_refused_by_name(values, message):
    with pytest.raises(EvalkitError, match=message.replace("[", r"\[")):
        override(RECIPES["imagenet32"], values)


def test_unknown_recipe_lists_the_choices():
    with pytest.raises(EvalkitError, match="imagenet64: no such recipe; choose imagenet32, svhn"):
        load_recipe("imagenet64")
