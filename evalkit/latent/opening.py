"""From what a user types after --run to a frozen GAN, and to the pictures it was trained on."""

from pathlib import Path
from typing import Any

from evalkit.artifacts import Manifest
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import read_checkpoint, stored_recipe, weights_file
from evalkit.gan.layout import find_checkpoint, run_of
from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.weights import load_weights
from evalkit.images import ImageSet, find_images, images_with_hash
from evalkit.latent.gan import FrozenGAN, frozen
from evalkit.pretrained.find import find_pretrained
from evalkit.pretrained.store import load_discriminator, load_generator, read_pretrained
from evalkit.workspace import Workspace

_PRETRAINED = "pretrained:"


def open_gan(name: str, workspace: Workspace, *, label: int | None = None, device: str = "auto") -> FrozenGAN:
    """The GAN of a run or checkpoint (name, NAME@UPDATES or path; "latest": the latest run) or pretrained:NAME, frozen.

    Where training kept a moving average of a network, that one is taken.

    Args:
        label: the class to draw where the recipe has classes [0 if None].

    Raises:
        EvalkitError: no such run or weights, broken ones, or a class that the recipe does not have.
    """
    if name.startswith(_PRETRAINED):
        return _open_pretrained(name, workspace, label, device)
    checkpoint = find_checkpoint(name, workspace)
    manifest = read_checkpoint(checkpoint)
    recipe = stored_recipe(manifest)
    generator, discriminator = Generator(recipe), Discriminator(recipe)
    load_weights(generator, checkpoint / weights_file(manifest, "generator"))
    load_weights(discriminator, checkpoint / weights_file(manifest, "discriminator"))
    run = f"{run_of(checkpoint).name}@{manifest['settings']['d_updates']}"
    made_from = _made_from(checkpoint, manifest)
    return frozen(run, generator, discriminator, label=label, device=device, made_from=made_from)


def _open_pretrained(name: str, workspace: Workspace, label: int | None, device: str) -> FrozenGAN:
    path = find_pretrained(name.removeprefix(_PRETRAINED), workspace)
    manifest = read_pretrained(path)
    if not manifest["settings"]["complete"]:
        raise EvalkitError(f"{path}: holds the discriminator's first layers alone, expected a whole GAN")
    networks = load_generator(path), load_discriminator(path)
    return frozen(name, *networks, label=label, device=device, made_from=_made_from(path, manifest))


def _made_from(path: Path, manifest: Manifest) -> dict[str, Any]:
    files = [weights_file(manifest, network) for network in ("generator", "discriminator")]
    hashes = {file.removesuffix(".safetensors"): manifest["files"][file]["sha256"] for file in files}
    about = {"weights": str(path.resolve()), "images_sha256": manifest["made_from"].get("images_sha256", "")}
    return about | {f"{name}_sha256": found for name, found in hashes.items()}


def trained_on(gan: FrozenGAN, workspace: Workspace, name: str | None = None) -> ImageSet:
    """The image set `name`, else the workspace's set with the pictures that the GAN was trained on.

    Raises:
        EvalkitError: no such set, or pictures of another size than the GAN's.
    """
    images = find_images(workspace, name) if name else images_with_hash(workspace, gan.made_from["images_sha256"])
    if images is None:
        raise EvalkitError(
            f"{gan.name}: the pictures it was trained on are not in {workspace.home}; name a set: --images"
        )
    if images.images.shape[1:3] != (gan.recipe.size, gan.recipe.size):
        found = f"pictures {images.images.shape[1]} pixels high, {gan.name} draws {gan.recipe.size}"
        raise EvalkitError(f"{images.name}: {found}; give a set prepared with --size {gan.recipe.size}")
    return images
