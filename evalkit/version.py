"""The version of evalkit, and the versions of what a result depends on."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

__version__ = "0.1.0"

_PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python, evalkit and the packages that can move a number, for a manifest."""
    found = {name: version(name) for name in _PACKAGES}
    return {"evalkit": __version__, "python": platform.python_version(), **found}


def stamps() -> dict[str, Any]:
    """The versions and the date that a figure carries."""
    found = versions()
    named = " ".join(f"{name} {found[name]}" for name in ("evalkit", "torch", "numpy"))
    return {"versions": named, "date": datetime.now(UTC).date().isoformat()}
