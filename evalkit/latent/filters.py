"""filters: what drives features of the discriminator, beside random weights (Radford et al. 2016, sec. 6.2, fig. 5)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.gan.networks import build_networks, to_pictures
from evalkit.latent.critic import Critic
from evalkit.latent.finding import Finding, Picture
from evalkit.latent.gan import FrozenGAN
from evalkit.latent.guided import guided_gradient, maximised
from evalkit.latent.pictures import Row, captioned, png


def filters(
    gan: FrozenGAN,
    pictures: np.ndarray,
    *,
    layer: str | None = None,
    features: Sequence[int] = range(6),
    top: int = 6,
    steps: int = 64,
    seed: int = 0,
) -> Finding:
    """The pictures that drive some features of D most, what in them does so, and pictures made to drive them.

    The paper shows the first 6 features of D's last conv layer, beside random weights: so do the defaults.

    Args:
        pictures: uint8 (n, H, W, 3), searched for the strongest responses; the first 256 freeze the batch norms.
        layer: a conv layer, "conv1" up [the last].
        features: maps of that layer.
        top: pictures shown for each feature, the strongest first, one unit each.
        steps: of the gradient ascent on the input.
        seed: of the random weights and of the noise that the ascent starts from.

    Raises:
        EvalkitError: no such layer or feature.
    """
    trained = Critic(gan, normalised_by=pictures)
    untrained = Critic(gan, normalised_by=pictures, discriminator=build_networks(gan.recipe, seed=seed)[1])
    layer = layer or trained.layers[-1]
    features, top = list(features), min(top, len(pictures))
    tables, shown = [], {}
    for name, critic in (("trained", trained), ("random", untrained)):
        strongest = strongest_units(critic, pictures, layer, features, top=top)
        guided = _guided(critic, pictures, layer, strongest)
        shown[f"guided-{name}.png"] = Picture(
            f"guided backpropagation, {layer}, {name} weights",
            png(captioned(_in_turn(features, pictures[strongest["row"]], guided, top))),
        )
        made, responses = _ascended(critic, layer, features, steps=steps, seed=seed)
        title = f"inputs that drive {layer} feature {', '.join(map(str, features))} most, {name} weights"
        shown[f"maximised-{name}.png"] = Picture(title, png(captioned([Row(title, made)])))
        strongest["response_made"] = np.repeat(responses, top)
        tables.append(strongest.assign(weights=name))
    table = pd.concat(tables, ignore_index=True)
    settings = {"layer": layer, "features": features, "top": top, "steps": steps, "seed": seed}
    return Finding(
        "filters",
        settings | {"pictures": len(pictures)},
        shown,
        figures={f"{name}_strongest": float(rows["response"].max()) for name, rows in table.groupby("weights")},
        tables={"units": table},
    )


def strongest_units(
    critic: Critic, pictures: np.ndarray, layer: str, features: Sequence[int], *, top: int
) -> pd.DataFrame:
    """For each feature the `top` pictures with the largest response, and where: feature, rank, row, y, x, response.

    Raises:
        EvalkitError: no such layer or feature.
    """
    maps = critic.taps(pictures, layer)
    beyond = [feature for feature in features if feature >= maps.shape[1]]
    if beyond:
        raise EvalkitError(f"{layer}: has features 0 to {maps.shape[1] - 1}, not {beyond[0]}")
    found = []
    for feature in features:
        responses = maps[:, feature].reshape(len(maps), -1)
        rows = np.argsort(-responses.max(1), kind="stable")[:top]
        y, x = np.divmod(responses[rows].argmax(1), maps.shape[3])
        values = {"rank": np.arange(top), "row": rows, "y": y, "x": x, "response": responses[rows].max(1)}
        found.append(pd.DataFrame({"feature": feature, **values}))
    return pd.concat(found, ignore_index=True)


def _guided(critic: Critic, pictures: np.ndarray, layer: str, units: pd.DataFrame) -> np.ndarray:
    """The guided gradients as pictures, uint8 (units, H, W, C)."""
    images = critic.images(pictures[units["row"]])
    places = torch.tensor(units[["feature", "y", "x"]].to_numpy(), device=images.device)
    index = critic.layers.index(layer)
    gradient = guided_gradient(critic.discriminator, images, critic.classes(len(images)), layer=index, units=places)
    return as_pictures(gradient)


def as_pictures(gradient: Tensor) -> np.ndarray:
    """float (n, C, H, W) -> uint8 (n, H, W, C): 0 is grey, each picture's largest magnitude black or white."""
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return (127.5 * (1 + gradient / largest)).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _ascended(
    critic: Critic, layer: str, features: Sequence[int], *, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    recipe = critic.recipe
    noise = torch.empty(len(features), recipe.channels, recipe.size, recipe.size)
    noise.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    start = (noise if recipe.output == "tanh" else 0.5 + noise / 2).to(critic.device)
    images, responses = maximised(
        critic.discriminator,
        critic.classes(len(features)),
        layer=critic.layers.index(layer),
        features=torch.tensor(features, device=critic.device),
        start=start,
        steps=steps,
    )
    return to_pictures(images, recipe), responses.cpu().numpy()


def _in_turn(features: Sequence[int], pictures: np.ndarray, guided: np.ndarray, top: int) -> list[Row]:
    """For each feature a row: its strongest pictures, then the guided gradients of the same pictures."""
    rows = []
    for index, feature in enumerate(features):
        part = slice(index * top, (index + 1) * top)
        both = np.concatenate([pictures[part][..., : guided.shape[3]], guided[part]])
        rows.append(Row(f"feature {feature}: strongest pictures, and what in them drives it", both))
    return rows
