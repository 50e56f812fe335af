"""The workspace: a folder in which commands find each other's latest output.

HOME/images/NAME    image sets       HOME/features/NAME    feature sets
HOME/runs/NAME      training runs    HOME/pretrained/NAME  downloaded or imported weights
HOME/results.csv    results          HOME/kmeans/NAME      dictionaries of K-means features
HOME/cards/*        run cards        HOME/draws/*.json     label subsets
HOME/downloads      data set files   HOME/latent/NAME      experiments of `evalkit latent`
"""

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.artifacts import MANIFEST
from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.files import safe_name

_FOLDERS = {
    "image set": "images",
    "run": "runs",
    "feature set": "features",
    "pretrained weights": "pretrained",
    "k-means dictionary": "kmeans",
    "experiment": "latent",
}
_MAKERS = {
    "image set": "evalkit prepare FOLDER",
    "run": "evalkit train-gan",
    "feature set": "evalkit extract --dataset cifar10",
    "pretrained weights": "evalkit pretrained fetch",
    "k-means dictionary": "evalkit baseline kmeans",
    "experiment": "evalkit latent sample",
}


class _TemporaryFolder:
    """A folder that is removed with this object, or at exit; unlike TemporaryDirectory, without a ResourceWarning."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="evalkit-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True)
class Workspace:
    """Where artifacts live. Creating the object touches nothing on disk."""

    home: Path
    _folder: _TemporaryFolder | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, home: "Workspace | Path | str | None" = None) -> "Workspace":
        """The workspace in a folder; by default a temporary one, deleted along with the object that is returned.

        An image set or feature set whose files are in a temporary workspace has to hold a reference to it.
        """
        if isinstance(home, Workspace):
            return home
        if home is not None:
            return cls(Path(home))
        folder = _TemporaryFolder()
        return cls(folder.path, folder)

    @property
    def is_temporary(self) -> bool:
        """Whether the folder is deleted along with this object."""
        return self._folder is not None

    @property
    def results(self) -> Path:
        """The CSV of results."""
        return self.home / "results.csv"

    @property
    def label_subsets(self) -> Path:
        """The folder of the label subsets that results were measured on."""
        return self.home / "draws"

    @property
    def downloads(self) -> Path:
        """Where torchvision puts, and looks for, the files of named datasets."""
        return self.home / "downloads"

    def path_of(self, kind: str, name: str) -> Path:
        """Where the artifact `name` of a kind ("image set", "run", "feature set") belongs."""
        return self.home / _FOLDERS[kind] / safe_name(name, kind)

    def artifacts(self, kind: str) -> list[Path]:
        """The finished artifacts of a kind, oldest first."""
        folder = self.home / _FOLDERS[kind]
        finished = [path for path in folder.glob("*") if _is_finished(path)]
        return sorted(finished, key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, path.name))

    def mark_latest(self, path: Path) -> None:
        """Makes an artifact the latest of its kind, also where a command finds its output finished."""
        if (path / MANIFEST).is_file():
            now = time.time_ns()  # finer than the file system's own clock, which advances every few milliseconds
            os.utime(path / MANIFEST, ns=(now, now))

    def latest(self, kind: str) -> Path:
        """The artifact of a kind that a command made, or found finished, last.

        Raises:
            ArtifactError: there is none; the message names the command that makes one.
        """
        finished = self.artifacts(kind)
        if not finished:
            raise ArtifactError(f"{self.home}: no {kind} in this workspace; make one with `{_MAKERS[kind]}`")
        return finished[-1]

    def find(self, kind: str, name_or_path: str) -> Path:
        """An artifact by explicit path, else by its name in the workspace.

        Raises:
            ArtifactError: neither exists; the message lists the names that do.
        """
        path = Path(name_or_path)
        with contextlib.suppress(OSError, ValueError, EvalkitError):  # what can be no path, or no name
            if (path / MANIFEST).is_file():
                return path
            if (self.path_of(kind, name_or_path) / MANIFEST).is_file():
                return self.path_of(kind, name_or_path)
        names = ", ".join(each.name for each in self.artifacts(kind)) or "none"
        raise ArtifactError(f"{printable(name_or_path)[:200]}: no such {kind}; in {self.home}: {names}")


def _is_finished(path: Path) -> bool:
    """Whether a folder is a finished artifact: not one that is being built, copied or removed."""
    return not path.name.startswith(".") and path.suffix != ".partial" and (path / MANIFEST).is_file()
