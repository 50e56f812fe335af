"""The image set that prepare is writing: rows and labels as they come, progress to resume from, counts at the end."""

import csv
import io
import os
import time
from collections import Counter
from typing import Any

from evalkit.arrays import Building, RowWriter
from evalkit.errors import PictureError
from evalkit.images.imageset import ImageSet
from evalkit.images.plan import Plan
from evalkit.images.worker import Chunk

SKIPPED = "skipped.csv"
SAVE_SECONDS = 2.0  # between records of progress, each an fsync: a kill costs this much work
NAMED_AT_MOST = 20  # skipped pictures in the manifest and the summary; all are in SKIPPED


class Output:
    """The growing image set: rows, labels, the skipped pictures, and the tally that a resumed run goes on from."""

    def __init__(self, work: Building, size: int):
        self._work = work
        start: dict[str, Any] = {
            "shards": 0,
            "read": 0,
            "grey": 0,
            "skipped": 0,
            "skipped_bytes": 0,
            "splits": {},
            "formats": {},
            "faces": {},
        }
        self.tally: dict[str, Any] = work.progress or start
        rows = sum(self.tally["splits"].values())
        self._images = RowWriter(work.path / "images.npy", (size, size, 3), "uint8", rows=rows)
        self._labels = RowWriter(work.path / "labels.npy", (), "int64", rows=rows)
        self._skipped = open(work.path / SKIPPED, "ab")
        self._skipped.truncate(self.tally["skipped_bytes"])
        self._skip([] if work.progress else [("name", "reason")])
        self._saved = time.monotonic()

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Closes the files; after an error the rows not yet recorded are cut off by the next run."""
        for file in (self._images, self._labels, self._skipped):
            file.close()

    def add(self, chunk: Chunk) -> None:
        """Appends a shard's pictures; records progress every few seconds."""
        self._images.append(chunk.images)
        self._labels.append(chunk.labels)
        self._skip(chunk.skipped)
        tally = self.tally
        tally["shards"] += 1
        tally["read"] += chunk.read
        tally["grey"] += chunk.grey
        tally["skipped"] += len(chunk.skipped)
        tally["splits"][chunk.split] = tally["splits"].get(chunk.split, 0) + len(chunk.labels)
        tally["formats"] = dict(sorted((Counter(tally["formats"]) + chunk.formats).items()))
        tally["faces"] = dict(sorted((Counter(tally["faces"]) + chunk.faces).items()))
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._images.sync()
            self._labels.sync()
            os.fsync(self._skipped.fileno())
            self._work.save(**tally)
            self._saved = time.monotonic()

    def _skip(self, rows: list[tuple[str, str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.tally["skipped_bytes"] += self._skipped.write(text.getvalue().encode("utf-8", "backslashreplace"))
        self._skipped.flush()

    def finish(self, plan: Plan, manifest: dict[str, Any]) -> None:
        tally = self.tally
        with open(self._work.path / SKIPPED, newline="", encoding="utf-8") as file:
            first = [row for row, _ in zip(csv.reader(file), range(NAMED_AT_MOST + 1), strict=False)][1:]
        splits, row = {}, 0
        for split, count in tally["splits"].items():
            if count:
                splits[split], row = [row, row + count], row + count
        if not row:
            why = f"; the first: {first[0][0]}: {first[0][1]}" if first else ""
            raise PictureError(f"{self._work.target}: not one picture of {tally['read']:,} could be read{why}")
        counts = {"read": tally["read"], "written": row, "grey": tally["grey"], "skipped": tally["skipped"]}
        about = {"class_names": list(plan.class_names), "splits": splits, "counts": counts, "faces": tally["faces"]}
        self._work.finish(manifest | about | {"formats": tally["formats"], "first_skipped": first})


def summary(images: ImageSet) -> list[str]:
    """What prepare did, as lines for the terminal: counts, splits, notes, the first 20 skipped pictures."""
    about = images.manifest
    counts = {key: f"{value:,}" for key, value in about["counts"].items()}
    splits = ", ".join(f"{name} {end - first:,}" for name, (first, end) in images.splits.items())
    formats = ", ".join(f"{name} {count:,}" for name, count in about["formats"].items())
    height, width = images.images.shape[1:3]
    classes = f"{len(images.class_names):,} classes"
    lines = [
        f"{images.name}: {counts['written']} pictures of {width} x {height} ({splits}), {classes}",
        f"read {counts['read']} ({formats}), greyscale converted {counts['grey']}, skipped {counts['skipped']}",
        *_about_faces(about.get("faces") or {}),
        *about["notes"],
        *(f"skipped {name}: {reason}" for name, reason in about["first_skipped"]),
    ]
    more = about["counts"]["skipped"] - len(about["first_skipped"])
    return lines + ([f"and {more:,} more, all in {SKIPPED}"] if more > 0 else [])


def _about_faces(counts: dict[str, int]) -> list[str]:
    found = ", ".join(f"{name} {counts.get(name, 0):,}" for name in ("none", "one", "several"))
    return [f"faces in a picture: {found}"] if counts else []
