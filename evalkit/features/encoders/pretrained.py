"""pretrained:NAME: the discriminator of released, shipped or imported weights as an encoder."""

from dataclasses import replace

from evalkit.features.encoders.discriminators import discriminator_encoder
from evalkit.features.encoders.encoder import Encoder
from evalkit.pretrained.find import find_pretrained
from evalkit.pretrained.store import load_discriminator, load_source_statistics, read_pretrained
from evalkit.workspace import Workspace


def pretrained_encoder(name: str, workspace: Workspace) -> Encoder:
    """The discriminator of the weights of that name, or its first layers; a release that is not here is fetched."""
    path = find_pretrained(name, workspace)
    discriminator, manifest = load_discriminator(path), read_pretrained(path)
    weights = path / "discriminator.safetensors"
    encoder = discriminator_encoder(
        f"pretrained:{name}",
        discriminator,
        sha256=manifest["files"][weights.name]["sha256"],
        weights=str(weights.resolve()),
        images_sha256=manifest["made_from"].get("images_sha256", ""),
    )
    return replace(encoder, source_statistics=load_source_statistics(path, manifest))
