"""The errors that evalkit raises on purpose. Imports nothing; everything else may import it."""


class EvalkitError(Exception):
    """Something the user can mend. The command line shows the message as one line, exit status 1.

    The message says what was found, what was expected and what to do next.
    """


def one_line(error: Exception) -> str:
    """Somebody else's error, as a line that a message of ours can carry: its kind and at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"


class ArtifactError(EvalkitError):
    """An artifact on disk is missing, broken, stale, or not of the expected kind."""


class ImageError(EvalkitError):
    """A file that should hold images (or one image) does not."""


class ConvergenceError(EvalkitError):
    """A fit ended before it reached its tolerance; its numbers must not be used."""
