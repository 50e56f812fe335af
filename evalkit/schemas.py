"""What a manifest of each kind of artifact must hold: checked once when it is read, so that readers need not ask again.

A schema is a type, a tuple of types, `[schema]` for a list, `{key: schema}` for a table (a key that ends with ? may be
missing, further keys are allowed), `Exact` for a table without further keys, `Each` for a table with any keys, or a
function that returns what is wrong with a value. Standard library only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.files import safe_name

Schema = Any


@dataclass(frozen=True)
class Each:
    """A table whose keys and values follow one schema each."""

    value: Schema
    key: Schema = str


@dataclass(frozen=True)
class Exact:
    """A table without further keys."""

    fields: dict[str, Schema]


def name(value: Any) -> str | None:
    """A name that may become a path."""
    try:
        safe_name(value, "file")
    except EvalkitError as error:
        return str(error)
    return None


def count(value: Any) -> str | None:
    """A whole number from 0 to 2^62."""
    return None if type(value) is int and 0 <= value < 1 << 62 else "expected a whole number of at least 0"


def sha256(value: Any) -> str | None:
    """64 hexadecimal digits."""
    fine = isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
    return None if fine else "expected 64 hexadecimal digits"


def row_range(value: Any) -> str | None:
    """[first row, row after the last]."""
    fine = isinstance(value, list) and len(value) == 2 and not any(map(count, value)) and value[0] <= value[1]
    return None if fine else "expected [first row, row after the last]"


def view_path(value: Any) -> str | None:
    """The relative path of another image set."""
    fine = isinstance(value, str) and value.isprintable() and 0 < len(value) < 4096
    return None if fine else "expected a path"


_ORIGIN = {"images_sha256?": str, "weights_sha256?": str, "start?": dict, "d_updates?": count}
_HEAD = {
    "format": int,
    "kind": str,
    "settings": dict,
    "made_from": _ORIGIN,
    "files": Each({"sha256": sha256, "bytes": count}, key=name),
    "created?": str,
    "commit?": str,
    "versions?": Each(str),
}
_SEGMENT = Exact({"from_d_updates": count, "processes": count, "sync_batch_norm": bool, "precision": str})
_TRAINED = {"images_sha256": str, "start?": {"run": str, "d_updates": count}}
_LAYER = {"name": str, "channels": count, "grid": count, "offset": count, "length": count, "channels_last?": bool}

SCHEMAS: dict[str, Schema] = {
    "image set": {
        "settings": {"name": name},
        "made_from": {"view_of?": Exact({"path": view_path, "sha256": sha256})},
        "class_names": [str],
        "splits": Each(row_range, key=name),
        "counts?": Each(count),
        "faces?": Each(count),
        "formats?": Each(count),
        "notes?": [str],
        "variant?": str,
        "first_skipped?": [[str]],
    },
    "feature set": {
        "settings": {"dataset": name, "encoder": str, "weights?": str, "batch_norm?": str, "scaling?": str},
        "made_from": {"files?": Each(str)},
        "class_names": [str],
        "splits": Each(row_range),
        "layers": [Exact(_LAYER)],
        "variant?": [str],
    },
    "run": {
        "settings": {
            "recipe": Each(object),
            "seed": int,
            "images": str,
            "precision": str,
            "device?": str,
            "processes?": count,
            "sync_batch_norm?": bool,
        },
        "made_from": _TRAINED,
    },
    "checkpoint": {
        "settings": {
            "recipe": Each(object),
            "minibatches": count,
            "d_updates": count,
            "rewinds?": count,
            "history?": [_SEGMENT],
        },
        "made_from": _TRAINED,
    },
    "pretrained weights": {
        "settings": {
            "recipe": Each(object),
            "about": str,
            "source": str,
            "licence": str,
            "notes": [str],
            "complete": bool,
            "training_known": bool,
            "run?": Each(object),
            "dtype?": str,
            "source_statistics?": str,
        },
    },
    "k-means dictionary": {"made_from": {"images_sha256": str}},
    "experiment": {"settings": {"gan": str}, "command": str, "images": Each(str, key=name)},
}
FILES = {  # that every artifact of the kind has
    "feature set": ("features.npy", "labels.npy"),
    "checkpoint": ("discriminator.safetensors", "generator.safetensors", "optimizers.safetensors"),
}


def check_manifest(path: object, manifest: Any, kind: str) -> None:
    """Refuses a manifest whose fields are not those of its kind.

    Raises:
        ArtifactError: the message names the first field that is wrong.
    """
    problem = find_problem(manifest, _HEAD) or find_problem(manifest, SCHEMAS.get(kind, {}))
    needed = FILES.get(kind, ()) if problem is None else ()
    if kind == "image set" and problem is None:
        needed = ("rows.npy",) if manifest["made_from"].get("view_of") else ("images.npy", "labels.npy")
    elif kind == "experiment" and problem is None:
        needed = tuple(manifest["images"])
    missing = [each for each in needed if each not in manifest["files"]]
    if missing:
        problem = f"files: no {missing[0]}"
    if problem:
        raise ArtifactError(f"{path}: {problem}; make the artifact again, or copy it again from where it came")


def find_problem(value: Any, schema: Schema, where: str = "") -> str | None:
    """The first place where a JSON value differs from a schema, and how; None where it does not."""
    if isinstance(schema, Each) and isinstance(value, dict):
        checks = [(key, schema.key, where) for key in value]
        checks += [(each, schema.value, f"{where}.{key}") for key, each in value.items()]
        return _first(checks)
    if isinstance(schema, Exact) and isinstance(value, dict):
        unknown = sorted(set(value) - {key.removesuffix("?") for key in schema.fields})
        return f"{_shown(where)}: unknown key {unknown[0]!r}" if unknown else find_problem(value, schema.fields, where)
    if isinstance(schema, Mapping) and isinstance(value, dict):
        return _table_problem(value, schema, where)
    if isinstance(schema, list) and isinstance(value, list):
        return _first([(each, schema[0], f"{where}[{number}]") for number, each in enumerate(value)])
    return _value_problem(value, schema, where)


def _first(checks: list[tuple[Any, Schema, str]]) -> str | None:
    return next((problem for each in checks if (problem := find_problem(*each))), None)


def _table_problem(value: dict[str, Any], schema: Mapping[str, Schema], where: str) -> str | None:
    for key, each in schema.items():
        plain = key.removesuffix("?")
        if plain not in value:
            if key == plain:
                return f"{_shown(where)}: no {plain!r}"
        elif problem := find_problem(value[plain], each, f"{where}.{plain}"):
            return problem
    return None


def _value_problem(value: Any, schema: Schema, where: str) -> str | None:
    if isinstance(schema, type):
        fine = isinstance(value, schema) and (schema is not int or type(value) is int)
        expected = schema.__name__
    elif isinstance(schema, Callable):  # type: ignore[arg-type]
        problem = schema(value)
        return None if problem is None else f"{_shown(where)}: {_shortened(value)}: {problem}"
    else:
        fine, expected = False, "list" if isinstance(schema, list) else "dict"
    return None if fine else f"{_shown(where)}: {_shortened(value)}, expected {expected}"


def _shown(where: str) -> str:
    return printable(where.removeprefix("."))[:100] or "the manifest"


def _shortened(value: Any) -> str:
    text = printable(repr(value)[:60])
    return text[:60]
