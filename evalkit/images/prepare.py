"""prepare: any source of pictures becomes an image set, resumably, with the same bytes for any number of workers.

Sources (sources/) come before; training and extraction read the ImageSet.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evalkit.arrays import building
from evalkit.artifacts import MANIFEST, new_manifest
from evalkit.errors import EvalkitError, PictureError
from evalkit.images.faces import Faces, check_opencv
from evalkit.images.fit import Fit
from evalkit.images.imageset import KIND, ImageSet, load_images
from evalkit.images.output import Output
from evalkit.images.plan import Plan, printable, split_of
from evalkit.images.pool import chunks, cores
from evalkit.images.sources import plan_source
from evalkit.images.worker import Task
from evalkit.workspace import Workspace

# Officially lossless: pictures in JPEG under such a name are another data set, with other figures.
_LOSSLESS = ("cifar10", "cifar100", "svhn", "mnist", "stl10")


def prepare(
    source: Path | str,
    target: Path | Workspace,
    *,
    name: str | None = None,
    size: int = Fit.size,
    filter: str = Fit.filter,
    decode: str | None = None,
    faces: Faces | None = None,
    workers: int | None = None,
    strict: bool = False,
    source_kind: str | None = None,
    replace: bool = False,
    progress: bool = False,
) -> ImageSet:
    """Makes an image set of the pictures in `source`, or returns the finished one if it is there already.

    Args:
        source: a folder, file or glob of any of the forms in `SOURCES` (see `evalkit.images.sources`).
        target: the image set's folder, or the workspace in which it gets the place of its name.
        name: the data set's name; the folder's or file's if not given.
        size: side of the square pictures in pixels.
        filter: how to shrink: "antialias" or "bilinear-noaa" (see Fit).
        decode: "scaled" decodes large JPEGs at a fraction of their size, "exact" never does (see Fit); if not given,
            scaled where the filter allows it.
        faces: crop each face that these settings find to a picture of its own; photographs without one give none.
        workers: decoding processes; one a core if not given. The result does not depend on it.
        strict: stop at the first picture that cannot be decoded instead of skipping it.
        source_kind: the source's form (see `source_names`); recognised if not given.
        replace: overwrite an image set made from something else or with other settings.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        EvalkitError: nothing to prepare, or the target is something else.
        PictureError: a bad picture, in a strict run; or every picture is bad.
    """
    fit = Fit(size=size, filter=filter, decode=decode or ("scaled" if filter == "antialias" else "exact"))
    plan = plan_source(source, source_kind)
    name, notes = _named(plan, name or plan.variant or default_name(source))
    place = target.place(KIND, name) if isinstance(target, Workspace) else Path(target)
    return write_set(
        plan,
        place,
        name=name,
        fit=fit,
        faces=faces,
        notes=(*plan.notes, *notes),
        workers=workers,
        strict=strict,
        replace=replace,
        progress=progress,
    )


def default_name(source: Path | str) -> str:
    """The data set's name that a path suggests: the folder's, or the file's unless that is only a split's."""
    path = Path(source).absolute()
    stem = path.name if path.is_dir() else path.name.split(".")[0]
    split_file = (
        (split_of([stem]) and stem.split("-")[0].isalpha()) or stem.startswith("0000-") or set(stem) & set("*?[")
    )
    return printable(path.parent.name if split_file and not path.is_dir() else stem) or "images"


def _named(plan: Plan, name: str) -> tuple[str, tuple[str, ...]]:
    plain = name.lower().replace("-", "").replace("_", "")
    if plain not in _LOSSLESS or not plan.shards:
        return name, ()
    first = next(plan.shards[0].pictures(), None)
    if first is None or not isinstance(first.content, bytes) or not first.content.startswith(b"\xff\xd8"):
        return name, ()
    lossy = f"{plain}-jpeg"
    return lossy, (f"the pictures are JPEG, {name} is officially lossless: called {lossy}, its figures are its own",)


def write_set(
    plan: Plan,
    target: Path,
    *,
    name: str,
    fit: Fit,
    faces: Faces | None = None,
    notes: Sequence[str] = (),
    workers: int | None = None,
    strict: bool = False,
    replace: bool = False,
    progress: bool = False,
) -> ImageSet:
    """Carries out a plan; what `prepare` and the named data sets share. Arguments as in `prepare`."""
    settings = {"name": name, **asdict(fit)}
    if faces:
        check_opencv()
        settings["faces"] = asdict(faces)
    made_from = {"source": plan.kind, **plan.identity}
    found = finished(target, settings, made_from, replace=replace)
    if found is None:
        with building(target, settings=settings, made_from=made_from) as work:
            output = Output(work, fit.size)
            tasks = [Task(shard, fit, strict, faces) for shard in plan.shards[output.tally["shards"] :]]
            bar = tqdm(
                total=plan.count, initial=output.tally["read"], unit="picture", disable=None if progress else True
            )
            with output, bar:
                for chunk in chunks(tasks, workers=workers or cores()):
                    output.add(chunk)
                    bar.update(chunk.read)
            output.finish(
                plan,
                new_manifest(KIND, settings=settings, made_from=made_from)
                | {"notes": list(notes), "variant": plan.variant},
            )
        found = load_images(target)
    if strict and found.manifest["counts"]["skipped"]:
        file, reason = found.manifest["first_skipped"][0]
        raise PictureError(f"{file}: {reason}; skipped when {target} was made, --strict stops at it")
    return found


def finished(target: Path, settings: dict[str, Any], made_from: dict[str, Any], *, replace: bool) -> ImageSet | None:
    """The image set at `target` if it is the wanted one; None if there is nothing, or it may be replaced.

    Raises:
        EvalkitError: the target is another image set, or not evalkit's at all.
    """
    if not target.exists() and not target.is_symlink():
        return None
    if not (target / MANIFEST).is_file():
        if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
            return None
        raise EvalkitError(f"{target}: exists and is no image set; move it away or choose another place")
    found = load_images(target)
    if found.manifest["settings"] == settings and found.manifest["made_from"] == made_from:
        return found
    if replace:
        return None
    old, new = (values | {"source": sha} for values, sha in (
        (found.manifest["settings"], str(found.manifest["made_from"].get("sha256"))[:12]),
        (settings, str(made_from.get("sha256"))[:12]),
    ))  # fmt: skip
    changed = ", ".join(f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key])
    raise EvalkitError(f"{target}: holds another image set ({changed}); choose another name, or replace it (--replace)")
