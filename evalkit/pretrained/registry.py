"""`pretrained:NAME`: weights in the workspace, weights shipped with evalkit, and releases that can be fetched.

`load_encoder` and the latent experiments look names up here; `evalkit pretrained list`, `fetch` and `card` are here.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from evalkit.artifacts import MANIFEST, locked, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.pretrained import download as downloads
from evalkit.pretrained.dcgan_release import RELEASES, read_release, release_named
from evalkit.pretrained.store import CARD, KIND, PretrainedSettings, renew_card, save_pretrained
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)
_PACKAGE = Path(__file__).resolve().parent


def find_pretrained(name: str, workspace: Workspace, *, download: bool = True) -> Path:
    """The weights of that name: the workspace's, else the shipped ones, else a release, which is fetched.

    Raises:
        EvalkitError: no such name (the message lists the names), or a release that cannot be, or is not to be, fetched.
    """
    target = workspace.path_of(KIND, name)
    available = {path.name: path for path in (*shipped(), *workspace.artifacts(KIND))}
    if name in available:
        return available[name]
    if name not in RELEASES:
        names = ", ".join(dict.fromkeys([*available, *RELEASES]))
        raise EvalkitError(f"pretrained:{name}: no weights of that name; there are {names}")
    if not download:
        raise EvalkitError(f"{target}: nothing there; run `evalkit pretrained fetch {name}`")
    return fetch_pretrained(name, home=workspace)


def shipped() -> list[Path]:
    """The shipped weights, by name."""
    return [path for path in sorted(shipped_folder().glob("*")) if (path / MANIFEST).is_file()]


def shipped_folder() -> Path:
    """Where this project's own weights are: inside an installed package, or in a clone's `pretrained/`."""
    inside = _PACKAGE / "shipped"  # put there when the wheel is built, see setup.py
    return inside if inside.is_dir() else _PACKAGE.parent.parent / "pretrained"


def fetch_pretrained(name: str, *, home: Workspace | Path | str, mirror: str | None = None) -> Path:
    """Downloads a release, verifies every file, converts it and returns the stored weights; resumes if interrupted.

    Args:
        name: name in the index of releases.
        home: workspace for the weights; the files are in its downloads until they are converted.
        mirror: a base address to download the release's paths from, instead of GitHub.

    Raises:
        EvalkitError: no such release, a failed download, or a file that differs from the index.
    """
    workspace = Workspace.of(home)
    release, target = release_named(name), workspace.path_of(KIND, name)
    folder = workspace.downloads / "pretrained" / name
    if (target / MANIFEST).is_file():
        read_manifest(target, KIND)
        return target
    with locked(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, entry in enumerate(release.files, start=1):
            path = folder / entry.name
            if not path.exists():
                address = entry.address(mirror)
                logger.info("%d/%d: %s (%s bytes)", number, len(release.files), address, f"{entry.bytes:,}")
                downloads.download(entry, path, mirror=mirror)
        save_pretrained(read_release(folder, release), target)
        shutil.rmtree(folder)
    return target


def write_card(name: str, *, home: Workspace | Path | str | None = None, results: Path | str | None = None) -> Path:
    """Writes the card of weights again, with the results that were measured with them, and returns its path.

    Args:
        name: of shipped weights or of weights in the workspace.
        home: the workspace.
        results: a results.csv; by default the workspace's.

    Raises:
        EvalkitError: no weights of that name, or no results.csv.
    """
    workspace = Workspace.of(home)
    path = find_pretrained(name, workspace, download=False)
    count = renew_card(path, Path(results) if results else workspace.results)
    logger.info("%s: %d results with these weights", name, count)
    return path / CARD


@dataclass(frozen=True)
class PretrainedEntry:
    """One line of `evalkit pretrained list`. `path` is None for a release that is not fetched yet."""

    name: str
    bytes: int
    licence: str
    source: str
    about: str
    path: Path | None


def list_pretrained(*, home: Workspace | Path | str | None = None) -> list[PretrainedEntry]:
    """All weights by name: the shipped ones, those in the workspace, and releases that are not fetched yet."""
    entries = {path.name: _entry(path) for path in (*shipped(), *Workspace.of(home).artifacts(KIND))}
    for name, release in RELEASES.items():
        if name not in entries:
            size = sum(file.bytes for file in release.files)
            entries[name] = PretrainedEntry(name, size, release.licence, release.source, release.about, None)
    return [entries[name] for name in sorted(entries)]


def _entry(path: Path) -> PretrainedEntry:
    try:
        manifest = read_manifest(path, KIND)
        settings = PretrainedSettings.from_manifest(manifest)
    except ArtifactError as error:
        return PretrainedEntry(path.name, 0, "-", "-", f"broken ({error})", path)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return PretrainedEntry(path.name, size, settings.licence, settings.source, settings.about, path)
