"""The card: what people should know of weights before they use them."""

from pathlib import Path

from evalkit.artifacts import Manifest

_TRAINING = ("batch_size", "lr", "beta1", "beta2", "l2", "schedule", "d_updates")


def card_text(name: str, manifest: Manifest, folder: Path) -> str:
    """The card as Markdown: what it is, where it is from, the licence, the networks, the files."""
    settings, recipe = manifest["settings"], manifest["settings"]["recipe"]
    lines = [f"# {name}", "", settings["about"], ""]
    lines += [f"- {key}: {settings[key]}" for key in ("source", "licence")]
    lines += [f"- {note}" for note in settings["notes"]]
    lines += ["", f"Use: `evalkit extract --encoder pretrained:{name}`", "", "## Networks", ""]
    described = {key: value for key, value in recipe.items() if key not in _TRAINING and value not in ("", [], 0)}
    lines += [f"- {key}: {value}" for key, value in described.items()]
    if settings["training_known"]:
        lines += ["", "## Training", "", *(f"- {key}: {recipe[key]}" for key in _TRAINING)]
    lines += ["", "## Files", ""]
    lines += [f"- {path.name}: {path.stat().st_size:,} bytes" for path in sorted(folder.glob("*.safetensors"))]
    return "\n".join([*lines, "", "Hashes and versions: manifest.json", ""])
