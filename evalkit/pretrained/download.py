"""Download of one released file over HTTP: resumed after a break, verified before it gets its name.

`registry.fetch_pretrained` calls it for every file of a release in the index (dcgan_release).
"""

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
_PAUSES = (0.2, 1.0, 3.0)  # seconds before each retry; more retries in a row that receive nothing give up
_BLOCK = 1 << 16
_TEMPORARY = (408, 429, 500, 502, 503, 504)  # HTTP errors worth a retry


class _Interrupted(Exception):
    """The connection ended early or was not made; a retry may continue."""


def download(entry: ReleasedFile, target: Path, *, mirror: str | None = None) -> Path:
    """Downloads a file of the index to `target` and verifies it; resumes from `TARGET.part` of an earlier attempt.

    Raises:
        EvalkitError: no such file there, a connection that keeps breaking, or bytes that differ from the index.
    """
    url, part = entry.address(mirror), target.with_name(target.name + ".part")
    if not url.startswith(("http://", "https://")):
        raise EvalkitError(f"{url}: expected an address that starts with https:// or http://")
    idle = 0
    while True:
        before = _size(part)
        try:
            _receive(url, part, entry.bytes)
        except _Interrupted as error:
            idle = 0 if _size(part) > before else idle + 1
            if idle > len(_PAUSES):
                have = f"{_size(part):,} of {entry.bytes:,} bytes"
                raise EvalkitError(f"{url}: {error} after {have}; the same command resumes from there") from None
            time.sleep(_PAUSES[max(idle, 1) - 1])
            continue
        digest = git_blob_sha1(part)
        if digest == entry.git_blob_sha1:
            os.replace(part, target)
            return target
        size = part.stat().st_size
        part.unlink()
        if not before:  # otherwise the earlier part may have been wrong: once more, from the start
            raise EvalkitError(
                f"{url}: {size:,} bytes with git blob SHA-1 {digest}, the index says {entry.bytes:,} bytes with "
                f"{entry.git_blob_sha1}; the download was discarded"
            )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, expected: int) -> None:
    """Extends `part` to `expected` bytes, or to one more if the server sends more than expected."""
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
        raise _Interrupted(f"no connection ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Interrupted(f"connection lost ({type(error).__name__})") from None
    if _size(part) < expected:
        raise _Interrupted("connection ended")


def _offered(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Offset in the file at which the server's answer starts, and the file's length if the server says it."""
    if response.status == 206:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        return int(first) if first.isdecimal() else 0, int(total) if total.isdecimal() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _append(response: http.client.HTTPResponse, part: Path, expected: int, *, start: int) -> None:
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        while file.tell() <= expected and (block := response.read1(min(_BLOCK, expected + 1 - file.tell()))):
            file.write(block)


def _refused(url: str, part: Path, status: int) -> None:
    """Decides after an HTTP error: start over, retry, or give up."""
    if status == 416:  # the server's file is shorter than ours
        part.unlink(missing_ok=True)
    if status == 416 or status in _TEMPORARY:
        raise _Interrupted(f"HTTP {status}")
    raise EvalkitError(
        f"{url}: HTTP {status}; is the address right? `evalkit pretrained import` takes files from elsewhere"
    )
