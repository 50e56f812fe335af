"""Which artifacts of a workspace claim a hash; whether they keep the claim is for the checks."""

import json
from collections.abc import Iterator
from pathlib import Path

from evalkit.artifacts import MANIFEST
from evalkit.errors import ArtifactError
from evalkit.images import load_images
from evalkit.workspace import Workspace


def _claims(path: Path) -> dict[str, str]:
    """File name -> SHA-256, as the manifest in `path` says; empty where there is none to read."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def features_at_hand(workspace: Workspace, sha256: str) -> Path | None:
    """The feature set whose features.npy has the hash."""
    found = (path for path in workspace.all("feature set") if _claims(path).get("features.npy") == sha256)
    return next(found, None)


def images_at_hand(workspace: Workspace, sha256: str) -> Path | None:
    """The image set whose pictures have the hash; a view is one by its own and its parent's."""
    for path in workspace.all("image set"):
        if _claims(path).get("images.npy") == sha256:
            return path
        try:
            if load_images(path).sha256 == sha256:
                return path
        except ArtifactError:
            continue
    return None


def weights_at_hand(workspace: Workspace, sha256: str) -> tuple[Path, str] | None:
    """A checkpoint, or other weights of the workspace, with a file of the hash; and the artifact's kind."""
    for path in _with_weights(workspace):
        if sha256 in _claims(path).values():
            return path, json.loads((path / MANIFEST).read_text())["kind"]
    return None


def _with_weights(workspace: Workspace) -> Iterator[Path]:
    for pattern in ("runs/*/checkpoints/*", "pretrained/*", "kmeans/*"):
        yield from sorted(workspace.home.glob(pattern))
