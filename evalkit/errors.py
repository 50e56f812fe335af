"""The errors that evalkit raises on purpose, and text for messages. Standard library only; all may import it."""

import re

_UNPRINTABLE = re.compile(  # control characters, line ends, marks of direction, lone surrogates, no characters at all
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


class EvalkitError(Exception):
    """An error that the user can fix. The command line shows the message as one line, exit status 1.

    The message says what was found, what was expected and what to do next.
    """


def one_line(error: Exception) -> str:
    """An error of another library as part of a message: its type and at most 300 characters, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"


def printable(text: str) -> str:
    """The text on one line: control characters, line ends, lone surrogates and marks of direction as escapes."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class ArtifactError(EvalkitError):
    """An artifact on disk is missing, broken, stale, or not of the expected kind."""


class ImageError(EvalkitError):
    """A file that should hold images (or one image) does not."""


class ConvergenceError(EvalkitError):
    """A fit stopped before it reached its tolerance; its numbers must not be used."""
