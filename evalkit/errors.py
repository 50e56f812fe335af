"""The errors that evalkit raises on purpose. This module imports nothing; every other may import it."""


class EvalkitError(Exception):
    """An error that the user can fix. The command line shows the message as one line, exit status 1.

    The message says what was found, what was expected and what to do next.
    """


def one_line(error: Exception) -> str:
    """An error of another library as part of a message: its type and at most 300 characters, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"


class ArtifactError(EvalkitError):
    """An artifact on disk is missing, broken, stale, or not of the expected kind."""


class ImageError(EvalkitError):
    """A file that should hold images (or one image) does not."""


class ConvergenceError(EvalkitError):
    """A fit stopped before it reached its tolerance; its numbers must not be used."""
