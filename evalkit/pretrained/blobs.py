"""Is a file the one that the index means? Git's own hash of a file says so."""

import hashlib
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.pretrained.index import ReleasedFile


def git_blob_sha1(path: Path) -> str:
    """The hash under which git keeps a file: SHA-1 of "blob BYTES\\0" and its content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_file(path: Path, entry: ReleasedFile) -> None:
    """Refuses a file that is not the index's.

    Raises:
        EvalkitError: another size or hash; the message has both.
    """
    found = path.stat().st_size
    if found != entry.bytes:
        raise EvalkitError(f"{path}: {found:,} bytes, the release's file has {entry.bytes:,}; fetch it again")
    if (digest := git_blob_sha1(path)) != entry.git_blob_sha1:
        expected = entry.git_blob_sha1
        raise EvalkitError(f"{path}: git blob SHA-1 {digest}, the release's file has {expected}; fetch it again")
