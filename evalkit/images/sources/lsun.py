"""LSUN's LMDB folders (bedroom_train_lmdb and so on): JPEG or WebP files by key, no labels. Needs the extra [lsun]."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.images.interpreter import command, environment
from evalkit.images.sources.base import (
    SHARD,
    Plan,
    SourceImage,
    identity_of,
    printable,
    reading,
    reason,
    split_of,
    split_order,
)

_MOST_SECONDS = 3600
_FILE = "data.mdb"


def is_lmdb(root: Path, files: Sequence[Path]) -> bool:
    """Whether the files are those of LMDB folders."""
    return bool(files) and all(path.name == _FILE for path in files)


@dataclass(frozen=True)
class LmdbRecords:
    """`count` records of an LMDB folder, starting at a key; all have one class, or none (-1)."""

    split: str
    path: str
    key: bytes
    count: int
    label: int
    may_kill = True  # beyond the end of a mapping there is a signal, not an error

    def read(self) -> Iterator[SourceImage]:
        with _opened(Path(self.path)) as environment, environment.begin(buffers=False) as transaction:
            cursor = transaction.cursor()
            cursor.set_key(self.key)
            for (key, content), _ in zip(cursor.iternext(), range(self.count), strict=False):
                yield SourceImage(printable(key), content, self.label)


def lsun_plan(root: Path, files: Sequence[Path]) -> Plan:
    """The records of LMDB folders in the order of their keys; the name of a folder says class and split.

    Raises:
        EvalkitError: lmdb is not installed; a file is not an LMDB, is cut short, or is empty.
    """
    about = [(*_class_and_split(path.parent.resolve().name), path.parent) for path in files]
    classes = sorted({name for name, _, _ in about if name})
    shards = []
    for name, split, folder in sorted(about, key=lambda row: (split_order(row[1]), str(row[2]))):
        label = classes.index(name) if name else -1
        shards += [LmdbRecords(split, str(folder), key, count, label) for key, count in _runs(folder)]
    if not shards:
        raise EvalkitError(f"{root}: no records in this LMDB; expected LSUN's images")
    return Plan("lsun", shards, [printable(name) for name in classes], identity_of(files, root))


def _class_and_split(folder: str) -> tuple[str, str]:
    """("bedroom", "train") from "bedroom_train_lmdb"; the class is empty if the name has none."""
    words = folder.removesuffix("_lmdb").split("_")
    split = split_of(reversed(words))
    named = re.fullmatch(r"(.+)_(train|val|test)_lmdb", folder)
    return (named.group(1) if named else ""), split or "train"


def _opened(folder: Path) -> Any:
    try:
        import lmdb  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise EvalkitError(f"{folder}: reading LMDB needs the package lmdb; pip install 'evalkit[lsun]'") from None
    path = folder / _FILE
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, create=False, readahead=False, max_readers=1)
    except lmdb.Error as error:
        raise EvalkitError(f"{path}: cannot be read as LMDB ({error}); download it again") from None
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if path.stat().st_size < needed:  # reading beyond the end of the mapping would kill the process
        environment.close()
        raise EvalkitError(
            f"{path}: {path.stat().st_size:,} bytes, the LMDB has {needed:,}: cut short; download it again"
        )
    return environment


def _runs(folder: Path) -> list[tuple[bytes, int]]:
    """(first key, number of records) of runs of at most SHARD records, read by a process of its own.

    Raises:
        EvalkitError: the file is damaged; lmdb maps it and may kill the process that reads it.
    """
    program = command("from evalkit.images.sources.lsun import main; main()", str(folder))
    try:
        done = subprocess.run(program, env=environment(), capture_output=True, timeout=_MOST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EvalkitError(f"{folder / _FILE}: its keys take more than an hour to read; download it again") from None
    if done.returncode == 0:
        return [(bytes.fromhex(key), count) for key, count in json.loads(done.stdout)]
    said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    if done.returncode == 1 and said:
        raise EvalkitError(reason(said[-1].removeprefix("evalkit.errors.EvalkitError: ")))
    raise EvalkitError(f"{folder / _FILE}: damaged, reading it ended with status {done.returncode}; download it again")


def main() -> None:
    """Prints the runs of the folder in sys.argv as JSON: the other side of `_runs`."""
    folder = Path(sys.argv[1])
    try:
        with reading(folder / _FILE, "LMDB"):
            print(json.dumps([(key.hex(), count) for key, count in _read_runs(folder)]))
    except EvalkitError as error:
        sys.exit(str(error))


def _read_runs(folder: Path) -> list[tuple[bytes, int]]:
    runs: list[tuple[bytes, int]] = []
    with _opened(folder) as opened, opened.begin() as transaction:
        entries = opened.stat()["entries"]
        for row, key in enumerate(transaction.cursor().iternext(keys=True, values=False)):
            if row >= entries:  # pages that lead to each other would never end
                raise EvalkitError(f"{folder / _FILE}: more records than its {entries:,} entries; download it again")
            if row % SHARD == 0:
                runs.append((key, 0))
            runs[-1] = runs[-1][0], runs[-1][1] + 1
    return runs
