"""Download of one released file over HTTP: resumed after a break, verified before it gets its name.

`registry.fetch_pretrained` calls it for every file of a release in the index (dcgan_release).
"""

import errno
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from evalkit.errors import EvalkitError, one_line
from evalkit.pretrained.dcgan_release import ReleasedFile, git_blob_sha1

_TIMEOUT = 30.0  # seconds without a byte
_PAUSES = (0.2, 1.0, 3.0)  # seconds before each retry; more retries in a row that receive nothing give up
_BLOCK = 1 << 16
_SLOWEST = 10_000  # bytes per second; a file that takes longer is given up until the next fetch
_GRACE = 300.0  # seconds beside that, for connections and pauses
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.EFBIG)
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
    idle, deadline = 0, time.monotonic() + _GRACE + entry.bytes / _SLOWEST
    while True:
        before = _size(part)
        try:
            _receive(url, part, entry.bytes, deadline)
        except _Interrupted as error:
            idle = 0 if _size(part) > before else idle + 1
            if idle > len(_PAUSES) or time.monotonic() > deadline:
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
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise EvalkitError(f"{path}: in the way of a download, and not a file that evalkit wrote; move it away")
    return path.stat().st_size if path.exists() else 0


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https alone."""

    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, url: str) -> Any:
        if not url.startswith(("http://", "https://")):
            raise EvalkitError(f"{request.full_url}: redirects to {url[:80]!r}, expected https:// or http://")
        return super().redirect_request(request, file, code, message, headers, url)


def _receive(url: str, part: Path, expected: int, deadline: float) -> None:
    """Extends `part` to `expected` bytes, or to one more if the server sends more than expected.

    Raises:
        EvalkitError: an answer that cannot be the file's, or a part that cannot be written.
        _Interrupted: the connection broke; a retry may continue.
    """
    have = _size(part)
    if have > expected:
        part.unlink()
        have = 0
    if have == expected:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.build_opener(_HttpOnly).open(request, timeout=_TIMEOUT) as response:
            first, total = _offered(response, url, have)
            if total not in (None, expected):
                raise EvalkitError(f"{url}: a file of {total:,} bytes, the index says {expected:,}; not the release's")
            _append(response, part, expected, deadline, start=first)
    except urllib.error.HTTPError as error:
        with error:
            _refused(url, part, error.code)
    except urllib.error.URLError as error:
        raise _Interrupted(f"no connection ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Interrupted(f"connection lost ({type(error).__name__})") from None
    except ValueError as error:  # urllib's, about the address or one that the server redirects to
        raise EvalkitError(f"{url}: cannot be opened, or redirects to what cannot ({one_line(error)})") from None
    except OSError as error:
        if error.errno in _DISK:
            raise EvalkitError(f"{part}: cannot be written ({error.strerror})") from None
        raise _Interrupted(f"connection lost ({one_line(error)})") from None
    if _size(part) < expected:
        raise _Interrupted("connection ended")


def _offered(response: http.client.HTTPResponse, url: str, have: int) -> tuple[int, int | None]:
    """Offset in the file at which the server's answer starts, and the file's length if the server says it.

    Raises:
        EvalkitError: a partial answer that does not continue what is here, or a length that is no number.
    """
    if response.status != 206:
        return 0, _length(response.headers.get("Content-Length", ""), url)
    header = response.headers.get("Content-Range", "")
    span = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", header.strip())
    if not span or int(span[1]) != have:
        raise EvalkitError(
            f"{url}: a partial answer with Content-Range {header[:60]!r}, expected one from byte {have:,}; "
            "try again, or another --mirror"
        )
    return have, None if span[2] == "*" else int(span[2])


def _length(header: str, url: str) -> int | None:
    if len(header) > 18 and header.isdecimal():
        raise EvalkitError(f"{url}: a Content-Length of {len(header):,} digits; not the release's file")
    return int(header) if header.isdecimal() and header.isascii() else None


def _append(response: http.client.HTTPResponse, part: Path, expected: int, deadline: float, *, start: int) -> None:
    with _opened(part, new=not start) as file:
        file.seek(start)
        while file.tell() <= expected and (block := response.read1(min(_BLOCK, expected + 1 - file.tell()))):
            file.write(block)
            if time.monotonic() > deadline:
                raise _Interrupted("the server is too slow")


def _opened(part: Path, *, new: bool) -> IO[bytes]:
    """The part, to write; a symbolic link is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if new else 0)
    return os.fdopen(os.open(part, flags, 0o666), "wb")


def _refused(url: str, part: Path, status: int) -> None:
    """Decides after an HTTP error: start over, retry, or give up."""
    if status == 416:  # the server's file is shorter than ours
        part.unlink(missing_ok=True)
    if status == 416 or status in _TEMPORARY:
        raise _Interrupted(f"HTTP {status}")
    raise EvalkitError(
        f"{url}: HTTP {status}; is the address right? `evalkit pretrained import` takes files from elsewhere"
    )
