"""Fields of settings dataclasses: default, help, bounds and choices are written once, and the command line reads them.

Standard library only, so that `evalkit --help` does not wait for torch, numpy or pandas.
"""

from dataclasses import field
from typing import Any


def setting(
    default: Any, help: str, *, minimum: float | None = None, maximum: float | None = None, metavar: str | None = None
) -> Any:
    """A dataclass field that is also a command-line option.

    Args:
        default: the value of the field and of the option.
        help: one sentence with the unit, as `--help` shows it.
        minimum, maximum: inclusive bounds of a number, checked by the command line.
        metavar: what `--help` calls the value; by default its type.
    """
    return field(default=default, metadata={"help": help, "minimum": minimum, "maximum": maximum, "metavar": metavar})
