"""The card: what people should know of weights before they use them."""

from pathlib import Path
from typing import Any

import pandas as pd

from evalkit.artifacts import Manifest
from evalkit.results import method_name

_TRAINING = ("batch_size", "lr", "beta1", "beta2", "l2", "schedule", "d_updates")


def card_text(name: str, manifest: Manifest, folder: Path, figures: pd.DataFrame | None = None) -> str:
    """The card as Markdown: what it is, source, licence, limits, figures, how it was trained, the networks, the files.

    Args:
        figures: rows of a results.csv that were measured with these weights.
    """
    settings, recipe = manifest["settings"], manifest["settings"]["recipe"]
    lines = [f"# {name}", "", settings["about"], ""]
    lines += [f"- {key}: {settings[key]}" for key in ("source", "licence")]
    lines += [f"- {note}" for note in settings["notes"]]
    lines += ["", f"Use: `evalkit extract --encoder pretrained:{name}`", ""]
    if figures is not None and len(figures):
        lines += ["## Figures", "", *(_figure_line(row) for _, row in figures.iterrows()), ""]
    if settings["training_known"]:
        trained = {"d_updates": manifest["made_from"].get("d_updates", recipe["d_updates"])}
        facts = {key: recipe[key] for key in _TRAINING} | trained | settings.get("run", {})
        lines += ["## Training", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    described = {key: value for key, value in recipe.items() if key not in _TRAINING and value not in ("", [], 0)}
    lines += ["## Networks", "", *(f"- {key}: {value}" for key, value in described.items())]
    lines += ["", "## Files", ""]
    lines += [_file_line(path, settings.get("dtype", "float32")) for path in sorted(folder.glob("*.safetensors"))]
    return "\n".join([*lines, "", "Hashes and versions: manifest.json", ""])


def _file_line(path: Path, dtype: str) -> str:
    dtype = dtype if path.stem in ("discriminator", "generator") else "float32"
    return f"- {path.name}: {path.stat().st_size:,} bytes, {dtype}"


def _figure_line(row: "pd.Series[Any]") -> str:
    labels = "all labels" if row["protocol"] == "all" else f"{row['protocol']} labels a class"
    card = f", run card {row['card']}" if row["card"] else ""
    return (
        f"- {row['dataset']}, {labels}, {method_name(row)}: {row['metric'].replace('_', ' ')} {row['value']:.2f} "
        f"± {row['spread']:.2f} ({row['spread_kind']}, n = {row['n']}), {row['date']}, {row['device']}{card}"
    )
