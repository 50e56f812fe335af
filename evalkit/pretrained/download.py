"""One file over HTTP: goes on where it was cut off, and is whole and right when it is there under its name."""

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.pretrained.dcgan_release import ReleasedFile, git_blob_sha1

_TIMEOUT = 30.0  # seconds without a byte
_PAUSES = (0.2, 1.0, 3.0)  # seconds before another try; as many tries in a row may bring nothing
_BLOCK = 1 << 16
_PASSING = (408, 429, 500, 502, 503, 504)  # what a server says when it may do better in a moment


class _Cut(Exception):
    """The connection ended early, or none came about; another try may go on."""


def download(entry: ReleasedFile, target: Path, *, mirror: str | None = None) -> Path:
    """Downloads a file of the index to `target`, verified; what an earlier try left in `TARGET.part` is continued.

    Raises:
        EvalkitError: no such file there, the connection breaks again and again, or other bytes than the index says.
    """
    url, part = entry.address(mirror), target.with_name(target.name + ".part")
    if not url.startswith(("http://", "https://")):
        raise EvalkitError(f"{url}: expected an address that starts with https:// or http://")
    idle = 0
    while True:
        before = _size(part)
        try:
            _receive(url, part, entry.bytes)
        except _Cut as error:
            idle = 0 if _size(part) > before else idle + 1
            if idle > len(_PAUSES):
                have = f"{_size(part):,} of {entry.bytes:,} bytes"
                raise EvalkitError(f"{url}: {error} after {have}; the same command goes on from there") from None
            time.sleep(_PAUSES[max(idle, 1) - 1])
            continue
        found = git_blob_sha1(part)
        if found == entry.git_blob_sha1:
            os.replace(part, target)
            return target
        size = part.stat().st_size
        part.unlink()
        if not before:  # else what was there before may have been at fault: once more, from the start
            raise EvalkitError(
                f"{url}: {size:,} bytes with git blob SHA-1 {found}, the index says {entry.bytes:,} bytes with "
                f"{entry.git_blob_sha1}; nothing of it was kept"
            )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, expected: int) -> None:
    """Brings `part` to `expected` bytes, or one more where the server sends more, starting at what is there."""
    have = _size(part)
    if have > expected:
        part.unlink()
        have = 0
    if have == expected:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            first, total = _offered(response)
            if total not in (None, expected):
                raise EvalkitError(f"{url}: a file of {total:,} bytes, the index says {expected:,}; not the release's")
            _append(response, part, expected, start=have if first == have else 0)
    except urllib.error.HTTPError as error:
        with error:
            _refused(url, part, error.code)
    except urllib.error.URLError as error:
        raise _Cut(f"no connection ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Cut(f"connection lost ({type(error).__name__})") from None
    if _size(part) < expected:
        raise _Cut("connection ended")


def _offered(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where the server's answer starts in the file, and how long the file is, if it says so."""
    if response.status == 206:
        place, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = place.partition("-")[0]
        return int(first) if first.isdecimal() else 0, int(total) if total.isdecimal() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _append(response: http.client.HTTPResponse, part: Path, expected: int, *, start: int) -> None:
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        while file.tell() <= expected and (block := response.read1(min(_BLOCK, expected + 1 - file.tell()))):
            file.write(block)


def _refused(url: str, part: Path, status: int) -> None:
    """What an HTTP error means: start over, try again, or give up."""
    if status == 416:  # the server's file ends before ours does
        part.unlink(missing_ok=True)
    if status == 416 or status in _PASSING:
        raise _Cut(f"HTTP {status}")
    raise EvalkitError(
        f"{url}: HTTP {status}; is the address right? Files from elsewhere come in by `evalkit pretrained import`"
    )
