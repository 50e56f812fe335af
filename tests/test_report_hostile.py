"""What others may have written into a workspace: names that a format takes for markup, damaged files, links elsewhere.

The report is written with what is whole; what is left out is said on one line, and nothing from outside is embedded.
"""

import csv
import dataclasses
import io
import json
import os
import re
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from example_results import CLASSES, RESULT, TRAINING, add_example
from PIL import Image

from evalkit.artifacts import new_manifest, sha256_json, write_artifact
from evalkit.cli import main
from evalkit.errors import ArtifactError, printable
from evalkit.latent.experiment import gallery
from evalkit.report.data import gather_report_data
from evalkit.report.plots import read_image
from evalkit.report.render import as_html, as_latex, as_markdown
from evalkit.report.tables import as_csv, compare_with_published, report_text
from evalkit.results import COLUMNS, add_result, read_results, write_card
from evalkit.workspace import Workspace


@pytest.fixture
def home(tmp_path):
    add_example(tmp_path / "results.csv")
    return tmp_path


def report(home, *arguments):
    return CliRunner().invoke(main, ["--home", str(home), "report", *map(str, arguments)])


def assert_one_line(result, *parts):
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    assert "Traceback" not in result.output
    for part in parts:
        assert part in message, message


def assert_left_out(home, *parts):
    """The tables are written (LaTeX draws no plots, which take time), and the messages have these parts."""
    result = report(home, "--out", home / "report.tex")
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr, result.stderr
    return (home / "report.tex").read_text()


def assert_written(home, *parts):
    """The report is written, and its messages have these parts; its page is returned."""
    result = report(home, "--out", home / "report.html")
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr, result.stderr
    return (home / "report.html").read_text()


# -- names are data

NAMES = {
    "mathtext": r"$\foo$",
    "one dollar": "a$b",
    "escaped dollar": r"\$x\$",
    "nested formula": r"$$\frac{$$",
    "html": "<script>alert(1)</script>",
    "attribute": '" onload="alert(1)',
    "entity": "&lt;b&gt;",
    "comment": "<!-- x --> ]]>",
    "jinja": "{{ 7 * 7 }}{% raise %}<< 1 >><% x %>",
    "latex": r"\input{/etc/passwd}",
    "percent": "50% off",
    "markdown": "[a](javascript:alert(1)) | ![x](y) ~~z~~",
    "formula": '=HYPERLINK("http://x","y")',
    "plus": "+1+2",
    "minus": "-2+3",
    "at": "@SUM(A1)",
    "underscore": "_hidden",
    "letters of no font": "猫 \U0001f600 Ω",
    "long": "x" * 3000,
    "line end": "a\nb\r\n\nc",
    "terminal": "\x1b[2J\x07bell",
    "null": "a\0b",
    "reversed": "\u202egnp.exe",
    "slashes": "../../../etc/passwd@5",
    "empty": "",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_no_name_stops_the_report_or_is_taken_for_markup(tmp_path, name):
    """As encoder, class, layer and device, in all formats."""
    classes, names = [name, *CLASSES[1:]], {"encoder": name, "device": name, "layers": name, "date": name}
    content = {"class_names": classes, "training": TRAINING | {"images": name}, "note": {name: name}}
    content["validation_curve"] = [[1e-4, 81.0], [2e-4, 82.1]]
    labels = np.arange(30) % 3
    for place in range(2):  # two, so that lines are drawn
        changed = {"features_sha256": str(place), "n_train": 1000 * (place + 1), "value": 60.0 + place}
        card = write_card(tmp_path / "results.csv", content | changed, predictions=labels[None], labels=labels)
        protocol = {"protocol": ("all", "400")[place]}
        add_result(tmp_path / "results.csv", dataclasses.replace(RESULT, card=card, **names | changed | protocol))
    page = assert_written(tmp_path)
    assert "<script" not in page
    assert not re.search("<[^>]* onload=", page)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", page)
    shown = re.sub("[\x00-\x1f\u202e]", lambda each: each[0].encode("unicode_escape").decode(), name)
    text = re.sub(r"\s+", "", "".join(re.findall(r">([^<]*)<", page)))
    expected = shown if len(shown) < 40 else shown[:20]
    escaped = expected.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")
    assert re.sub(r"\s+", "", escaped) in text


@pytest.mark.parametrize("name", [r"$\foo$", r"\$x$", "a$b$c$", "_hidden", "__x $y$"])
def test_plots_show_names_as_they_are(tmp_path, name):
    add_example(tmp_path / "results.csv", encoder=name)
    add_example(tmp_path / "results.csv", encoder=name, protocol="400", n_train=4000)
    page = as_html(gather_report_data(tmp_path / "results.csv", Workspace(tmp_path)))
    plots = re.findall(r"<figure><figcaption>([^<]*).*?(<svg .*?</svg>)", page, flags=re.S)
    drawn = {caption: svg for caption, svg in plots}
    for caption in ("At a glance", "Accuracy against C", "Test result against labels", "Accuracy of each class"):
        assert name in re.sub(r"</?(tspan|text)[^>]*>", "", drawn[caption]), caption


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", " =1", "\t=1", "\r@x"])
def test_no_cell_of_the_csv_is_a_formula(tmp_path, name):
    add_result(tmp_path / "results.csv", dataclasses.replace(RESULT, encoder="mine", dataset=name, device=name))
    rows = list(csv.reader(io.StringIO(as_csv(compare_with_published(tmp_path / "results.csv")))))
    for column, cell in zip(rows[0], rows[-1], strict=True):
        number = column in ("value", "difference", "interval_low")
        assert number or not cell.strip().startswith(("=", "+", "-", "@")), (column, cell)
    assert read_results(tmp_path / "results.csv")["dataset"].tolist() == [printable(name)]


def test_latex_has_no_commands_and_no_ligatures_of_names(tmp_path):
    add_result(tmp_path / "results.csv", dataclasses.replace(RESULT, encoder=r"\input{x}--``y'' ?`"))
    text = as_latex(compare_with_published(tmp_path / "results.csv"))
    assert r"\textbackslash{}input\{x\}-{}-`{}`y'{}' ?{}`" in text
    assert r"\input" not in text


@pytest.mark.parametrize("card", ["a](javascript:alert(1))", "../../x", "a b", "x" * 5000, "\x1b[2J", "a.b"])
def test_a_cards_name_cannot_leave_its_folder_or_its_link(tmp_path, card):
    add_result(tmp_path / "results.csv", dataclasses.replace(RESULT, card=card))
    data = gather_report_data(tmp_path / "results.csv", Workspace(tmp_path))
    assert "is no name of a run card" in data.missing[0]
    markdown = as_markdown(data, tmp_path / "r.md")
    (link,) = re.findall(r"\[run card\]\((.*)\) \|", markdown)
    assert re.fullmatch(r"[\w./%~-]+", link)


def test_terminals_get_no_control_characters(tmp_path):
    add_result(tmp_path / "results.csv", dataclasses.replace(RESULT, encoder="\x1b[2Jx", device="\x9b5n"))
    assert r"\x1b[2Jx" in report_text(compare_with_published(tmp_path / "results.csv"))


# -- damaged results.csv


def edited(home, column, text):
    rows = list(csv.reader(io.StringIO((home / "results.csv").read_text())))
    rows[1][COLUMNS.index(column)] = text
    with open(home / "results.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("value", "many", "line 2, value is 'many', expected a number from 0 to 100"),
        ("value", "inf", "value is 'inf'"),
        ("value", "nan", "value is 'nan'"),
        ("value", "-1", "value is '-1'"),
        ("value", "1e999", "value is '1e999'"),
        ("value", "9" * 5000, "line 2, value is '999"),
        ("value", "8_0", "value is '8_0'"),
        ("value", "", "line 2 has no value"),
        ("n", "1.5", "n is '1.5', expected a whole number"),
        ("n", "", "n is '', expected a whole number"),
        ("n_test", "-3", "n_test is '-3'"),
        ("n_train", "1e3", "n_train is '1e3'"),
        ("uncertainty", "inf", "uncertainty is 'inf'"),
        ("C", "x", "C is 'x'"),
        ("seed", "9" * 30, "seed is '999"),
        ("interval_low", "1e300", "interval_low is '1e300'"),
    ],
)
def test_damaged_fields_of_results_are_one_line(home, column, text, message):
    edited(home, column, text)
    assert_one_line(report(home), "results.csv: ", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-40], "fields, expected 35"),
        (lambda text: text.replace("\n", ",x\n"), "columns that differ: x"),
        (lambda text: text.rstrip("\n") + ",x\n", "line 2 has 36 fields, expected 35"),
        (lambda text: text.replace("dataset,encoder", "encoder,encoder"), "a column occurs twice"),
        (lambda text: text + '"', "not readable as a table"),
        (lambda text: text.replace("imagenet32", "\ud800"), "not readable as a table"),
        (lambda text: text + "x" * 200_000, "not readable as a table"),
        (lambda text: "", "columns that differ: C, dataset"),
        (lambda text: "\0" * 100, "columns that differ: "),
        (lambda text: text.replace(",", ";"), "columns that differ: "),
    ],
)
def test_damaged_tables_of_results_are_one_line(home, change, message):
    text = change((home / "results.csv").read_text())
    (home / "results.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_one_line(report(home), "results.csv: ", message)


def test_results_are_read_as_before_from_a_whole_file(home):
    (home / "results.csv").write_text("\ufeff" + (home / "results.csv").read_text())  # a spreadsheet's mark
    row = read_results(home / "results.csv").iloc[0]
    assert (row["n"], row["C"], row["value"], row["hyperparameter"]) == (1, 2e-4, 66.67, "C = 0.0002")
    assert np.isnan(row["std"])
    assert read_results(home / "results.csv")["n"].dtype == np.int64


def test_a_pipe_in_place_of_results_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "results.csv")
    with pytest.raises(ArtifactError, match="not readable as a table .not a file"):
        read_results(tmp_path / "results.csv")


# -- damaged and hostile cards


def with_card(home, **changes):
    """A result whose card is whole by its hash, but has other entries than evalkit's."""
    (path,) = home.glob("cards/*.json")
    card = {**json.loads(path.read_text()), **changes}
    name = sha256_json(card)[:16]
    path.with_suffix(".npz").rename(home / f"cards/{name}.npz")
    path.unlink()
    (home / f"cards/{name}.json").write_text(json.dumps(card))
    edited(home, "card", name)
    return home / f"cards/{name}.npz"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_names", "abc"),
        ("class_names", [1, 2, 3]),
        ("class_names", ["a"]),  # fewer than predicted
        ("class_names", {"a": 1}),
        ("validation_curve", 7),
        ("validation_curve", [[1, 2, 3]]),
        ("validation_curve", [["a", "b"], ["c", "d"]]),
        ("validation_curve", [[1, float("inf")], [2, float("nan")]]),
        ("validation_curve", [[1, 1e300], [10**400, 5]]),
        ("training", "yes"),
        ("training", {"recipe": 5}),
        ("training", {"recipe": {"name": []}, "d_updates": "many"}),
        ("training", {"recipe": {"name": "svhn"}, "images": "x"}),
        ("training", {"recipe": {"name": "svhn"}, "d_updates": -1}),
        ("extraction", []),
        ("extraction", {"shift": "far"}),
        ("extraction", {"hflip": 7, "batch_norm": []}),
        ("protocol", [1]),
        ("protocol", {"labels_per_class": 400}),
        ("protocol", {"labels_per_class": "all"}),
        ("predictions_sha256", None),
    ],
)
def test_cards_with_other_entries_are_left_out_with_one_line(home, key, value):
    with_card(home, **{key: value})
    assert "66.67" in assert_left_out(home, "without a run card: ")


def npy(shape, content=b"", descr="|u1"):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def archive(**members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return packed.getvalue()


def twice():
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w") as file:
        warnings.simplefilter("ignore")
        for content in (npy((1, 1), b"\0"), npy((1, 1), b"\1")):
            file.writestr("predictions.npy", content)
        file.writestr("labels.npy", npy((1,), b"\0"))
    return packed.getvalue()


def array(value):
    packed = io.BytesIO()
    np.save(packed, value)
    return packed.getvalue()


PREDICTIONS = {
    "empty": b"",
    "text": b"no zip",
    "a .npy": array(np.zeros(3)),
    "cut short": archive(predictions=npy((1, 30), bytes(30)), labels=npy((30,), bytes(30)))[:-60],
    "no labels": archive(predictions=npy((1, 30), bytes(30))),
    "a member twice": twice(),
    "a terabyte by its header": archive(predictions=npy((10**6, 10**6)), labels=npy((30,), bytes(30))),
    "more by its header than there is": archive(predictions=npy((1, 31), bytes(30)), labels=npy((30,), bytes(30))),
    "less by its header": archive(predictions=npy((1, 29), bytes(30)), labels=npy((30,), bytes(30))),
    "a negative shape": archive(predictions=npy((-1, -30), bytes(30)), labels=npy((30,), bytes(30))),
    "objects": archive(predictions=npy((1, 30), bytes(240), "|O"), labels=npy((30,), bytes(30))),
    "floats": archive(predictions=npy((1, 30), bytes(240), "<f8"), labels=npy((30,), bytes(30))),
    "a nested header": archive(predictions=b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, labels=b""),
    "a bomb": archive(predictions=npy((1, 10**7), bytes(10**7)), labels=npy((30,), bytes(30))),
    "other predictions": archive(predictions=npy((1, 30), bytes(30)), labels=npy((30,), bytes(30))),
}


@pytest.mark.parametrize("content", PREDICTIONS.values(), ids=PREDICTIONS.keys())
def test_damaged_predictions_are_left_out_with_one_line(home, content):
    (path,) = home.glob("cards/*.npz")
    path.write_bytes(content)
    assert_left_out(home, f"without a run card: {path}: ")


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"kind": "run card"', b"\xff", b"7", b'{"kind": []}'])
def test_damaged_cards_are_left_out_with_one_line(home, content):
    (path,) = home.glob("cards/*.json")
    path.write_bytes(content)
    assert_left_out(home, f"without a run card: {path}: ")


# -- damaged runs and their probes


PROBE = "d_updates,dataset,labels_per_class,validation_percent\n"


@pytest.mark.parametrize(
    "text",
    ["", "x", "a,b\n1,2\n", PROBE + "1,a,400\n", PROBE + "x,a,400,5\n", PROBE + "1,a,400,inf\n", PROBE + '1,"a', "\0"],
)
def test_damaged_probes_are_left_out_with_one_line(home, text):
    (home / "runs/imagenet32").mkdir(parents=True)
    (home / "runs/imagenet32/probe.csv").write_text(text)
    assert_left_out(home, "probe.csv: ")


@pytest.mark.parametrize(
    "manifest",
    [
        {"settings": {}, "made_from": {}, "files": {}},
        {"settings": [], "made_from": {}, "files": {}},
        {"settings": {"history": 5}, "made_from": [], "files": {}},
        {"settings": {"recipe": 3}, "made_from": {}, "files": {}, "commit": ""},
        {"files": {}},
    ],
)
def test_damaged_manifests_of_runs_are_left_out_with_one_line(tmp_path, manifest):
    add_result(tmp_path / "results.csv", RESULT)
    (tmp_path / "runs/imagenet32").mkdir(parents=True)
    head = new_manifest("run", settings={}, made_from={}) | manifest
    for key in ("settings", "made_from"):
        if key not in manifest:
            del head[key]
    (tmp_path / "runs/imagenet32/manifest.json").write_text(json.dumps(head))
    assert_left_out(tmp_path)


@pytest.mark.parametrize("run", ["../../outside", "..", "a/b", "x" * 300])
def test_samples_come_from_runs_of_the_workspace_only(tmp_path, run):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "outside/samples").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "outside/samples/d-1.png")
    add_result(home / "results.csv", dataclasses.replace(RESULT, encoder=f"{run}@1"))
    assert gather_report_data(home / "results.csv", Workspace(home)).samples == {}


# -- images


@pytest.fixture
def secret(tmp_path_factory):
    """An image of the user's, outside the workspace."""
    path = tmp_path_factory.mktemp("user") / "passport-1.png"
    Image.new("RGB", (20, 20), "blue").save(path)
    return path


def experiment(home, images=None, **changes):
    """An experiment of one image; its manifest is then changed."""
    folder, settings = home / "latent/x", {"gan": "g", "recipe": "r", "class": None}
    with write_artifact(folder, settings=settings, made_from={}) as artifact:
        Image.new("RGB", (4, 4), "red").save(artifact.path / "walk.png")
        manifest = new_manifest("experiment", settings=settings, made_from={})
        artifact.finish(manifest | {"command": "walk", "images": {"walk.png": "a walk"}})
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    if images is not None:
        manifest["images"] = images
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_gallery_shows_an_experiment(home):
    experiment(home)
    assert [image.title for image in gallery(home / "latent")] == ["g: a walk"]
    assert "g: a walk" in assert_written(home)


@pytest.mark.parametrize("absolute", [True, False])
def test_an_image_outside_the_experiment_is_never_embedded(home, secret, absolute):
    name = str(secret) if absolute else os.path.relpath(secret, home / "latent/x")
    entry = {"sha256": "0" * 64, "bytes": secret.stat().st_size}
    folder = experiment(home, {name: "a walk"}, files={name: entry})
    assert gallery(folder) == []
    assert "a walk" not in assert_written(home)


@pytest.mark.parametrize(
    "images",
    [["walk.png"], "walk.png", {"walk.png": 7}, {"other.png": "t"}, {"..": "t"}, {"measurements.json": "t"}, 5],
)
def test_manifests_that_list_no_images_of_their_own_are_left_out(home, images):
    assert gallery(experiment(home, images)) == []
    assert_left_out(home, "left out: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {}},
        {"settings": {"gan": 5, "recipe": "r", "class": None}},
        {"settings": []},
        {"command": None},
        {"files": {"walk.png": {}}},
    ],
)
def test_manifests_of_experiments_with_other_entries_are_left_out(home, changes):
    assert gallery(experiment(home, **changes)) == []
    assert_left_out(home, "left out: ")


def test_an_image_that_is_a_link_or_was_changed_is_not_embedded(home, secret):
    walk = experiment(home) / "walk.png"
    size = walk.stat().st_size
    walk.unlink()
    walk.symlink_to(secret)
    manifest = json.loads((walk.parent / "manifest.json").read_text())
    manifest["files"]["walk.png"]["bytes"] = secret.stat().st_size
    (walk.parent / "manifest.json").write_text(json.dumps(manifest))
    assert "data:image/jpeg" not in assert_written(home, "left out: ")
    walk.unlink()
    walk.write_bytes(secret.read_bytes())  # the size is right, the hash is not
    assert size
    assert "data:image/jpeg" not in assert_written(home, "left out: ")


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_sample_grid_that_is_a_link_is_not_embedded(home, secret, linked):
    run = home / "runs/imagenet32"
    run.mkdir(parents=True)
    if linked == "folder":
        (run / "samples").symlink_to(secret.parent)
    else:
        (run / "samples").mkdir()
        (run / "samples/d-00000001.png").symlink_to(secret)
    assert "data:image/jpeg" not in assert_written(home)


def bomb():
    """A PNG of 60,000 x 60,000 pixels by its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


IMAGES = {
    "empty": b"",
    "text": b"no image",
    "cut short": b"\x89PNG\r\n\x1a\n\0\0",
    "bomb": bomb(),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # Pillow would start Ghostscript
    "svg": b"<svg onload='alert(1)'/>",
}


@pytest.mark.parametrize("content", IMAGES.values(), ids=IMAGES.keys())
def test_damaged_sample_grids_are_left_out_with_one_line(home, content):
    (home / "runs/imagenet32/samples").mkdir(parents=True)
    path = home / "runs/imagenet32/samples/d-00000001.png"
    path.write_bytes(content)
    (path.parent / "holiday.png").write_bytes(content)  # not a grid by its name
    assert_written(home, f"left out: {path}: ")
    with pytest.raises(ArtifactError, match="d-00000001.png: "):
        read_image(path)
