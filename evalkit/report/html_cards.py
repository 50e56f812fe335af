"""Run cards on the HTML page: each a closed paragraph that opens to all that led to its figure."""

from html import escape

from evalkit.report.material import Material, Measured

_LEFT_OUT = ("format", "kind", "figure", "curve", "class_names", "layers")  # shown elsewhere on the page


def cards(material: Material) -> str:
    """Every figure's card, then why others have none."""
    found = "".join(_card(each) for each in material.measured if each.card)
    missing = "".join(f"<li>{escape(line)}</li>" for line in material.missing)
    return found + (f'<ul class="notes">{missing}</ul>\n' if missing else "")


def _card(each: Measured) -> str:
    name = escape(each.row["card"])
    title = f"{each.method}, {each.row['dataset']}, {each.row['protocol']}"
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in _flat(each.card))
    link = f'<a href="cards/{name}.json">cards/{name}.json</a>'
    return f'<details id="card-{name}"><summary>{escape(title)}: {link}</summary>\n<dl>{lines}</dl></details>\n'


def _flat(card: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A card's entries as (name, text) pairs, nested ones under their dotted names."""
    lines = []
    for key, value in card.items():
        if not prefix and key in _LEFT_OUT:
            continue
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines
