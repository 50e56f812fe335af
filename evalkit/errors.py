"""The errors that evalkit raises on purpose, and how those of other libraries become one line.

This module imports the standard library only; every other may import it.
"""

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator

_UNPRINTABLE = re.compile(  # control characters, line ends, marks of direction, lone surrogates, no characters at all
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
# Packages whose exceptions say that a file is broken, not that evalkit is.
_LIBRARIES = {"pyarrow", "lmdb", "PIL", "safetensors", "torch", "torchvision", "pandas", "numpy", "timm", "jinja2"}
_LIBRARIES |= {"zipfile", "tarfile", "zlib", "lzma", "bz2", "gzip", "struct", "binascii", "json", "tomllib", "csv"}
_LIBRARIES |= {"pickle", "_pickle", "_csv", "ssl", "http", "urllib", "xml"}
_BROKEN = (zipfile.BadZipFile, zlib.error, UnicodeError, EOFError, MemoryError, RecursionError, OverflowError)
_LONGEST = 300


class EvalkitError(Exception):
    """An error that the user can fix. The command line shows the message as one line, exit status 1.

    The message says what was found, what was expected and what to do next.
    """


class ArtifactError(EvalkitError):
    """An artifact on disk is missing, broken, stale, or not of the expected kind."""


class ImageError(EvalkitError):
    """A file that should hold images (or one image) does not."""


class ConvergenceError(EvalkitError):
    """A fit stopped before it reached its tolerance; its numbers must not be used."""


def printable(text: str) -> str:
    """The text on one line: control characters, line ends, lone surrogates and marks of direction as escapes."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(error: BaseException) -> str:
    """An error of another library as part of a message: its type and at most 300 characters, on one line."""
    text = printable(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'}"


def is_of_library(error: BaseException) -> bool:
    """Whether another library says that what it was given is broken, or too large for this machine."""
    packages = {base.__module__.partition(".")[0] for base in type(error).__mro__[:-2]}
    return isinstance(error, _BROKEN) or bool(packages & _LIBRARIES)


@contextlib.contextmanager
def reading(
    path: object, what: str, hint: str = "make it again, or copy it again from where it came"
) -> Iterator[None]:
    """Turns what a library raises while it reads a file into one line with a hint.

    Args:
        path: the file.
        what: what it should be, e.g. "a safetensors file".
        hint: what to do.

    Raises:
        ArtifactError: instead of an exception of a library, ValueError, KeyError, TypeError and the like. Errors of
            the system (disk full, no permission) and evalkit's own pass.
    """
    try:
        yield
    except (EvalkitError, OSError):
        raise
    except Exception as error:
        if not is_of_library(error) and not isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):
            raise
        raise ArtifactError(f"{printable(str(path))}: not readable as {what} ({one_line(error)}); {hint}") from None
