"""`pretrained:NAME`: weights in the workspace, weights shipped with evalkit, and releases that can be fetched."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evalkit.artifacts import MANIFEST, locked, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.pretrained import download as downloads
from evalkit.pretrained.dcgan_release import RELEASES, read_release, release_named
from evalkit.pretrained.store import KIND, save_pretrained
from evalkit.workspace import Workspace

Say = Callable[[str], None]
_PACKAGE = Path(__file__).resolve().parent


def shipped_folder() -> Path:
    """Where the weights that this project trained lie: inside an installed package, or in a clone's `pretrained/`."""
    inside = _PACKAGE / "shipped"  # put there when the wheel is built, see setup.py
    return inside if inside.is_dir() else _PACKAGE.parent.parent / "pretrained"


def shipped() -> list[Path]:
    """The shipped weights, by name."""
    return [path for path in sorted(shipped_folder().glob("*")) if (path / MANIFEST).is_file()]


def find_pretrained(name: str, workspace: Workspace, *, download: bool = True, say: Say = lambda line: None) -> Path:
    """The weights of that name: the workspace's, else the shipped ones, else a release, fetched now.

    Raises:
        EvalkitError: no such name (the message lists those there are), or a release that may not be or cannot be had.
    """
    here = workspace.path_of(KIND, name)
    there = {path.name: path for path in (*shipped(), *workspace.artifacts(KIND))}
    if name in there:
        return there[name]
    if name not in RELEASES:
        names = ", ".join(dict.fromkeys([*there, *RELEASES]))
        raise EvalkitError(f"pretrained:{name}: no weights of that name; there are {names}")
    if not download:
        raise EvalkitError(f"{here}: nothing there; run `evalkit pretrained fetch {name}`")
    return fetch(name, workspace, say=say)


def fetch(name: str, workspace: Workspace, *, mirror: str | None = None, say: Say = lambda line: None) -> Path:
    """Downloads a release (goes on with an interrupted download), verifies it, and stores it as weights of ours.

    Args:
        name: of the index.
        workspace: gets the weights; the files lie in its downloads until they are converted.
        mirror: a base address under which the release's paths are found, instead of GitHub.
        say: called with a line a file.

    Raises:
        EvalkitError: no such release, or what `download` raises.
    """
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
                say(f"{number}/{len(release.files)}: {entry.address(mirror)} ({entry.bytes:,} bytes)")
                downloads.download(entry, path, mirror=mirror)
        save_pretrained(read_release(folder, release), target)
        shutil.rmtree(folder)
    return target


@dataclass(frozen=True)
class Listed:
    """A line of `evalkit pretrained list`. `path` is None for what is still to be fetched."""

    name: str
    bytes: int
    licence: str
    source: str
    about: str
    path: Path | None


def listed(workspace: Workspace) -> list[Listed]:
    """All weights by name: shipped, in the workspace, and releases not fetched yet."""
    found = {}
    for path in (*shipped(), *workspace.artifacts(KIND)):
        try:
            manifest = read_manifest(path, KIND)
        except ArtifactError as error:
            found[path.name] = Listed(path.name, 0, "-", "-", f"broken ({error})", path)
            continue
        size = sum(entry["bytes"] for entry in manifest["files"].values())
        about = {key: manifest["settings"][key] for key in ("licence", "source", "about")}
        found[path.name] = Listed(path.name, size, **about, path=path)
    for name, release in RELEASES.items():
        if name not in found:
            size = sum(file.bytes for file in release.files)
            found[name] = Listed(name, size, release.licence, release.source, release.about, None)
    return [found[name] for name in sorted(found)]
