"""The report's formats: golden files, text that no format takes for markup, a page that loads nothing, series by value.

`make golden` regenerates the golden files.
"""

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from example_results import CLASSES, GOLDEN, RESULT, TRAINING, add_example, write_all_formats
from PIL import Image
from sklearn.metrics import confusion_matrix

import evalkit
from evalkit.artifacts import new_manifest, write_artifact
from evalkit.cli import main
from evalkit.errors import EvalkitError
from evalkit.evaluation.record import facts_of
from evalkit.report.data import (
    best_result,
    confusion_percent,
    gather_report_data,
    group_by_table,
    lines_over_C,
    lines_over_labels,
    lines_over_updates,
    probe_lines,
    results_by_layer,
)
from evalkit.report.differences import differences
from evalkit.report.plots import block_figures
from evalkit.report.render import as_html, as_latex, as_markdown, render
from evalkit.report.tables import as_csv, blocks, report_text
from evalkit.results import add_result
from evalkit.workspace import Workspace

PART = "cifar10-part", "all"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    write_all_formats(folder)
    return folder


@pytest.fixture(scope="module")
def report_data(written):
    return gather_report_data(written / "results.csv", Workspace(written))


@pytest.mark.parametrize("suffix", ["csv", "tex", "md", "html"])
def test_golden_files(written, suffix):
    assert (written / f"report.{suffix}").read_bytes() == (GOLDEN / f"report.{suffix}").read_bytes()


@pytest.fixture(scope="module")
def page(report_data):
    return as_html(report_data)


def test_equal_results_give_equal_plots(report_data, page):
    block = next(block for block in blocks(report_data.table) if "svhn" in block.title)
    for figure in block_figures(block, group_by_table(report_data)["svhn", "100"]):
        assert figure.draw() in page


def test_every_result_on_a_part_is_marked(report_data):
    """In each format: the line (or table row) of each measured result on cifar10-part, and of no other."""
    on_part = [f"{each.row['value']:.2f} " for each in report_data.measured if each.row["dataset"] == "cifar10-part"]
    pages = report_text(report_data.table), as_latex(report_data.table), GOLDEN.joinpath("report.md").read_text()
    for page in (*pages, GOLDEN.joinpath("report.html").read_text()):
        marked = [line for line in page.splitlines() if re.search(r"\d\d\.\d\d .*[ >]part\b", line)]
        assert [value for value in on_part if any(value in line for line in marked)] == on_part
        assert [line for line in marked if "svhn" in line or " 82.80 " in line] == []
    for line in as_csv(report_data.table).splitlines()[1:]:
        assert line.startswith("cifar10-part,part,") == ("cifar10-part" in line and ",measured," in line)


class Page(HTMLParser):
    """What a page opens and closes, links to and is made of."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.text = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found[name] for name in ("src", "href", "xlink:href") if found.get(name)]
        self.ids.add(found.get("id"))
        if tag not in ("meta", "link", "img", "path", "use", "rect", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


def test_page_is_well_formed_and_loads_nothing(written, page):
    parsed = Page(page)
    assert parsed.open == []
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= parsed.ids
    elsewhere = [link for link in parsed.links if not link.startswith(("#", "data:"))]
    assert elsewhere
    assert all((written / link).is_file() for link in elsewhere)  # the run cards beside it
    assert "url(" not in page.replace("url(#", "")
    assert "@import" not in page
    assert "<script" not in page
    plots = 3 * ["glance", "C", "classes", "confusions"] + ["updates", "layers", "labels"]
    assert page.count("<svg ") == page.count("</svg>") == len(plots)


NASTY = r"my_net & <b>50%</b> $1 #2 {x} ~^\a | `c` *d* [e]"


def nasty(tmp_path):
    add_result(tmp_path / "results.csv", dataclasses.replace(RESULT, encoder=NASTY))
    return gather_report_data(tmp_path / "results.csv", Workspace(tmp_path))


def test_markup_in_names_is_escaped_in_every_format(tmp_path):
    report_data = nasty(tmp_path)
    assert NASTY in "".join(Page(as_html(report_data)).text)
    markdown = as_markdown(report_data, tmp_path / "report.md")
    assert r"my\_net & \<b>50%\</b> \$1 #2 {x} \~^\\a \| \`c\` \*d\* \[e] + L2-SVM" in markdown
    row = next(line for line in as_latex(report_data.table).splitlines() if "my" in line)
    assert row.startswith(
        r"\raggedright my\_net \& \textless{}b\textgreater{}50\%\textless{}/b\textgreater{} \$1 \#2 \{x\} "
        r"\textasciitilde{}\textasciicircum{}\textbackslash{}a | `c` *d* [e] + L2-SVM & "
    )


def test_latex_tables_are_regular(report_data):
    text = as_latex(report_data.table)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here; the regularity of the tables is tested above")
def test_latex_tables_compile(tmp_path, report_data):
    (tmp_path / "report.tex").write_text(as_latex(report_data.table) + as_latex(nasty(tmp_path).table))
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{report}\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").is_file(), done.stdout[-2000:]
    assert "Overfull" not in done.stdout.split("my")[0]


def test_value_of_the_lines(report_data):
    group = group_by_table(report_data)[PART]
    (updates,) = lines_over_updates(group)
    assert (updates.name, updates.x) == ("imagenet32 + L2-SVM", (75000.0, 150000.0))
    assert updates.percent == pytest.approx((60.0, 66.67))
    assert updates.uncertainty == (0.75, 0.75)
    labels = {line.name: line for line in lines_over_labels(report_data.measured) if "svhn" not in line.name}
    assert labels["imagenet32@150000 + L2-SVM"].x == (4000.0, 50000.0)
    assert "pixels + L2-SVM" not in labels  # its other result was selected on test, which is another method
    assert results_by_layer(group) == {
        "imagenet32@150000 + L2-SVM": [("conv1..conv4", 56.67, 0.75), ("all", 66.67, 0.75)]
    }
    curve = next(line for line in lines_over_C(group) if line.name == "imagenet32@150000 + L2-SVM")
    assert curve.x == (1e-4, 2e-4, 5e-4)
    assert curve.percent == (81.0, 82.1, 80.5)
    assert curve.selected == 2e-4


def test_value_of_the_line_of_a_probe():
    columns = {
        "d_updates": [400, 0],
        "validation_percent": [52.25, 41.5],
        "dataset": "cifar10",
        "labels_per_class": 100,
    }
    (line,) = probe_lines("mine", pd.DataFrame(columns))
    assert (line.name, line.x) == ("mine, 100 labels per class of cifar10", (0.0, 400.0))
    assert line.percent == (41.5, 52.25)


def test_best_result_is_not_one_selected_on_test(tmp_path):
    results = tmp_path / "results.csv"
    add_example(results, right=20)
    add_example(results, right=30, select_on="test")
    add_example(results, right=20, dataset="svhn", metric="error_percent")
    add_example(results, right=15, dataset="svhn", metric="error_percent", features_sha256="less")
    groups = group_by_table(gather_report_data(results, Workspace(tmp_path)))
    assert best_result(groups[PART]).row["value"] == pytest.approx(66.67)
    assert best_result(groups["svhn", "all"]).row["value"] == 50.0  # the lower error


def test_reference_confusions_equal_scikit_learn(report_data):
    for each in report_data.measured[:2]:
        truth = np.tile(each.labels, len(each.predictions))
        expected = confusion_matrix(truth, each.predictions.ravel(), normalize="true")
        np.testing.assert_allclose(confusion_percent(each), 100 * expected)
        assert len(CLASSES) == len(expected)


def test_value_of_the_differences_from_the_paper(report_data):
    top = best_result(group_by_table(report_data)[PART])
    assert [tuple(line) for line in differences(top)] == [
        ("images evaluated (cifar10-part)", "original", "a part: 10,000 test images"),
        (
            "images trained on",
            "ImageNet-1k: about 1,281,000 images of 1,000 classes",
            "tiny-imagenet: 100,000 images of 200 classes",
        ),
        ("updates of D", "150,000", "800 (0.5 %)"),
        ("arithmetic", "float32", "bfloat16"),
        ("recipe: lr", "0.0002", "0.0001"),
        ("C values tried", "0.0001 to 0.01 (its SVHN script)", "1e-05 to 0.01"),
    ]


def test_differences_are_taken_to_the_network_of_the_papers_table(report_data):
    each = report_data.measured[0]
    own = each.training | {"recipe": {"name": "mine", "base_channels": 64, "lr": 2e-4}}
    assert ("recipe: base_channels", "128", "64") in differences(dataclasses.replace(each, training=own))
    digits = dataclasses.replace(each, row=each.row.replace("cifar10-part", "digits"))
    assert differences(digits) == []  # the paper has no results on them


def test_value_of_differences_in_feature_extraction(report_data):
    each = report_data.measured[0]
    plain = differences(each)
    as_the_paper = {"extraction": {"batch_norm": "target"}}
    assert differences(dataclasses.replace(each, card=each.card | as_the_paper)) == plain
    card = each.card | {"extraction": {"batch_norm": "source", "hflip": True, "shift": 2}}
    row = each.row.copy()
    row["scaling"] = "standardised"
    added = [line for line in differences(dataclasses.replace(each, card=card, row=row)) if line not in plain]
    assert [tuple(line) for line in added] == [
        ("features scaled", "no", "standardised"),
        ("features averaged", "no", "shifted by 2 and with mirror image"),
        (
            "batch-norm statistics",
            "of the training images evaluated (its release)",
            "of the images trained on",
        ),
    ]
    others = dataclasses.replace(each, card=card, training={})  # the paper says nothing of other networks
    assert "batch-norm statistics" not in [line.what for line in differences(others)]


def test_training_precision_comes_from_the_checkpoint_or_is_not_recorded(tmp_path, report_data):
    settings = {"recipe": {"name": "imagenet32"}, "d_updates": 150_000, "history": [{"precision": "bfloat16"}]}
    manifest = {"settings": settings, "made_from": {}, "commit": ""}
    each = dataclasses.replace(report_data.measured[0], training=facts_of(manifest, Workspace(tmp_path)))
    assert ("arithmetic", "float32", "bfloat16") in differences(each)
    del settings["history"]  # a checkpoint from before it was recorded
    each = dataclasses.replace(each, training=facts_of(manifest, Workspace(tmp_path)))
    assert ("arithmetic", "float32", "not recorded") in differences(each)


def test_training_of_a_result_without_a_card_comes_from_its_run(tmp_path):
    add_result(tmp_path / "results.csv", RESULT)
    recipe = {"name": "imagenet32", "lr": 0.0002}
    settings = {"recipe": recipe, "seed": 0, "images": "imagenet", "precision": "float32"}
    made_from = {"images_sha256": "i"}
    with write_artifact(tmp_path / "runs/imagenet32", settings=settings, made_from=made_from) as artifact:
        artifact.finish(new_manifest("run", settings=settings, made_from=made_from))
    (each,) = gather_report_data(tmp_path / "results.csv", Workspace(tmp_path)).measured
    assert (each.training["d_updates"], each.training["recipe"]) == (150_000, recipe)


# -- the command


@pytest.fixture
def home(tmp_path):
    add_example(tmp_path / "results.csv")
    return tmp_path


def report(home, *arguments):
    return CliRunner().invoke(main, ["--home", str(home), "report", *map(str, arguments)])


def test_command_writes_all_formats_with_samples_of_the_measured_runs(home):
    (home / "runs/imagenet32/samples").mkdir(parents=True)
    for updates in (0, 75000, 150000):
        Image.new("RGB", (640, 640), "red").save(home / f"runs/imagenet32/samples/d-{updates:08d}.png")
    rows = "0,cifar10-part,100,5000,0.001,41.50\n75000,cifar10-part,100,5000,0.0005,52.25\n"
    names = "d_updates,dataset,labels_per_class,validation_images,C,validation_percent\n"
    (home / "runs/imagenet32/probe.csv").write_text(names + rows)
    result = report(home)
    assert result.exit_code == 0
    assert "cifar10-part (part of cifar10), all labels" in result.stdout
    assert sorted(path.suffix for path in home.glob("report.*")) == [".csv", ".html", ".md", ".tex"]
    page = (home / "report.html").read_text()
    assert "imagenet32, 100 labels per class of cifar10-part" in page
    assert page.count("data:image/jpeg;base64,") == 3
    assert "imagenet32: samples after 150,000 updates of D" in page
    linked = re.findall(r"\((report-files/[^)]*)\)", (home / "report.md").read_text())
    assert linked
    assert all((home / link).is_file() for link in linked)
    assert linked[-1].endswith(".jpg")
    with Image.open(home / linked[-1]) as image:
        assert image.size == (448, 448)


def test_command_writes_the_files_asked_for(home):
    result = report(home, "--out", home / "a/table.tex", "--out", home / "b.csv")
    assert result.exit_code == 0
    assert (home / "a/table.tex").is_file()
    assert not (home / "report.csv").exists()
    assert (home / "b.csv").read_text().count("\n") == 7  # the columns' names, five published, one measured


def test_missing_card_is_reported_and_the_rest_written(home):
    card = next(home.glob("cards/*.json"))
    card.unlink()
    result = report(home, "--out", home / "page.html")
    assert result.exit_code == 0
    assert f"without a run card: {card}: no such run card" in result.stderr
    assert card.name in (home / "page.html").read_text()


def other_columns(home):
    (home / "results.csv").write_text("dataset,accuracy\ncifar10,1\n")


def unwritable(home):
    (home / "report.csv").mkdir()


@pytest.mark.parametrize(
    ("break_it", "arguments", "message"),
    [
        (
            lambda home: None,
            ["--out", "x.pdf"],
            "x.pdf: no format for '.pdf'; expected a file in .csv, .tex, .md, .html",
        ),
        (lambda home: None, ["--results", "nowhere.csv"], "nowhere.csv"),
        (other_columns, [], "not a results.csv of this evalkit"),
        (lambda home: (home / "results.csv").unlink(), [], "no results measured yet; run `evalkit svm`"),
        (unwritable, [], ": a folder, expected a file; move it away"),
    ],
)
def test_errors_are_one_line(home, break_it, arguments, message):
    break_it(home)
    result = report(home, *arguments)
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line
    assert "Traceback" not in result.output


def test_pretrained_weights_bring_the_samples_and_probe_of_their_run(tmp_path):
    add_example(tmp_path / "results.csv", encoder="pretrained:mine")
    weights = Workspace(tmp_path).path_of("pretrained weights", "mine")
    weights.mkdir(parents=True)
    (weights / "manifest.json").write_text("{}")
    (weights / "probe.csv").write_text("d_updates,dataset,labels_per_class,validation_percent\n7,cifar10,400,61.5\n")
    Image.new("RGB", (64, 64), "red").save(weights / "samples-00000007.png")
    report_data = gather_report_data(tmp_path / "results.csv", Workspace(tmp_path))
    render(report_data, tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert "pretrained:mine: samples after 7 updates of D" in text
    assert "| updates of D | " in text
    assert report_data.probes["pretrained:mine"]["validation_percent"].tolist() == [61.5]
    assert report_data.measured[0].trained == ("pretrained:mine", TRAINING["d_updates"])


def test_report_in_another_folder_links_the_run_cards(home):
    assert report(home, "--out", home / "pages/deep/report.md").exit_code == 0
    (link,) = re.findall(r"\[run card\]\((.*?)\)", (home / "pages/deep/report.md").read_text())
    assert link.startswith("../../cards/")
    assert (home / "pages/deep" / link).is_file()


def test_write_report_takes_paths_without_a_workspace(home):
    table = evalkit.write_report(home / "results.csv", home / "only.tex")
    assert (home / "only.tex").read_text() == as_latex(table)
    assert not (home / "report.csv").exists()
    with pytest.raises(EvalkitError, match="nowhere.csv: no results measured yet"):
        evalkit.write_report(home / "nowhere.csv")
