"""What a run logs, and what it does when it goes wrong: metrics, collapse, rewinds, probe, TensorBoard events."""

import csv
import itertools
import json
import logging

import numpy as np
import pytest
import torch
from helpers import SMALL_RECIPE as SMALL
from helpers import TRAIN_OPTIONS as OPTIONS

from evalkit.encoders import load_encoder
from evalkit.errors import EvalkitError
from evalkit.evaluation.training_probe import TrainingProbe
from evalkit.gan.checkpoint import CheckpointSettings, new_state, read_checkpoint
from evalkit.gan.monitor import COLUMNS, Metrics, detect_collapse, diversity, nearest_sample_distance, sample
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import TrainOptions, override
from evalkit.gan.run_dir import checkpoints
from evalkit.gan.train import train

CPU = torch.device("cpu")


def lines(path):
    with open(path) as file:
        return list(csv.DictReader(file))


# -- metrics


def test_value_of_diversity():
    images = np.zeros((2, 1, 2, 1), np.uint8)
    images[:, 0, :, 0] = [[0, 10], [0, 30]]  # variances over images 0 and 100, of all pixels 150
    assert diversity(images) == pytest.approx(np.sqrt(50 / 150))


def test_diversity_does_not_depend_on_contrast():
    images = np.random.default_rng(0).integers(0, 128, (40, 8, 8, 3)).astype(np.uint8) * 2
    assert diversity(images) == pytest.approx(diversity(images // 2 + 60)) == pytest.approx(1, abs=0.02)
    assert diversity(images[:1].repeat(5, axis=0)) == diversity(np.full((5, 8, 8, 3), 7, np.uint8)) == 0


def test_reference_nearest_sample_distance():
    recipe = override(SMALL, {"z_dim": 4})
    generator = build_networks(recipe, seed=1)[0]
    drawn = sample(generator, recipe, 40, seed=7_000_000)
    real = drawn[:5].copy()  # planted: the nearest sample is the image itself
    assert (
        nearest_sample_distance(generator, recipe, real, samples=40) < 0.05
    )  # sqrt of float32 rounding of |x|^2 ~ 1000
    other = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    flat = [x.reshape(len(x), -1).astype(float) / 255 for x in (other, drawn)]
    expected = np.sqrt(((flat[0][:, None] - flat[1][None]) ** 2).sum(2)).min(1).mean()
    # float32 distances from matrix products
    assert nearest_sample_distance(generator, recipe, other, samples=40) == pytest.approx(expected, rel=1e-4)
    larger = np.pad(other, ((0, 0), (4, 4), (3, 3), (0, 0)))  # its centre counts
    assert nearest_sample_distance(generator, recipe, larger, samples=40) == pytest.approx(expected, rel=1e-4)


def test_metrics_of_an_older_run_are_kept(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(f"{','.join(COLUMNS[:8])}\n2,2,64,1.5,0.5,0.25,0.75,0.125\n9,9,288,3.0,1,1,1,1\n4,4,12")
    state = new_state(SMALL, seed=0, device=CPU)
    state.minibatches = 12  # 6 D updates: the second line is from beyond, the third was cut short
    Metrics(path, state, device=CPU)
    assert path.read_text().splitlines() == [",".join(COLUMNS), "2,2,64,1.5,0.50000,0.25000,0.75000,0.12500,,"]


def test_every_line_has_the_nnd_once_an_epoch_only(striped, tmp_path):
    options = TrainOptions(device="cpu", precision="float32", log_updates=1, nnd_samples=20)
    train(striped, tmp_path / "run", override(SMALL, {"schedule": "both", "d_updates": 9}), options=options)
    rows = lines(tmp_path / "run" / "metrics.csv")
    assert [row["d_updates"] for row in rows if row["nnd"]] == ["7"]  # an epoch is 240 // 32 = 7 minibatches
    assert all(0 < float(row["diversity"]) <= 1 for row in rows)


# -- collapse


def row(d_updates, d_loss=0.5, diversity=0.8):
    return {"d_updates": d_updates, "d_loss": d_loss, "diversity": diversity}


def test_value_of_alarms():
    healthy = [row(i) for i in range(20)]
    assert detect_collapse(healthy) is None
    assert detect_collapse(healthy + [row(20 + i, d_loss=1e-4) for i in range(9)]) is None
    what, since = detect_collapse(healthy + [row(20 + i, d_loss=1e-4) for i in range(10)])
    assert "D tells all samples from real images" in what and since == 20
    assert detect_collapse(healthy + [row(20 + i, diversity=0.01) for i in range(9)]) is None
    what, since = detect_collapse(healthy + [row(30 + i, diversity=0.01) for i in range(12)])
    assert "samples have collapsed" in what and since == 32


def false_alarm(after):
    """Reports a collapse once, when a run has logged so many lines."""
    reported = []

    def detect(rows):
        if len(rows) != after or reported:
            return None
        reported.append(True)
        return "planted", rows[-1]["d_updates"] - 1

    return detect


def test_collapsed_run_stops_and_keeps_its_checkpoints(striped, tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.gan.trainer.detect_collapse", false_alarm(4))
    with pytest.raises(EvalkitError, match="planted since 3 D updates; the checkpoints are kept; try --on-collapse"):
        train(striped, tmp_path / "run", SMALL, options=OPTIONS)
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["d-00000002"]


def test_rewound_run_continues_with_other_minibatches(striped, tmp_path, monkeypatch, caplog):
    whole = train(striped, tmp_path / "whole", SMALL, options=OPTIONS)
    monkeypatch.setattr("evalkit.gan.trainer.detect_collapse", false_alarm(4))
    options = TrainOptions(**{**vars(OPTIONS), "on_collapse": "rewind"})
    rewound = train(striped, tmp_path / "rewound", SMALL, options=options)
    assert caplog.messages == ["planted since 3 D updates: back to d-00000002 with other minibatches (rewind 1)"]
    settings = CheckpointSettings.from_manifest(read_checkpoint(rewound))
    assert settings.rewinds == 1
    assert [segment.from_d_updates for segment in settings.history] == [0]
    first, second = (lines(tmp_path / name / "metrics.csv") for name in ("whole", "rewound"))
    assert [r["d_updates"] for r in second] == ["1", "2", "3", "4", "5", "6"]
    assert [a["d_loss"] == b["d_loss"] for a, b in zip(first, second, strict=True)] == [True, True] + [False] * 4
    assert whole.name == rewound.name


def test_run_that_collapses_again_and_again_stops(striped, tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.gan.trainer.detect_collapse", lambda rows: ("planted", 2) if len(rows) == 4 else None)
    options = TrainOptions(**{**vars(OPTIONS), "on_collapse": "rewind"})
    with pytest.raises(EvalkitError, match="planted since 2 D updates, after 3 rewinds; try another recipe"):
        train(striped, tmp_path / "run", SMALL, options=options)


# -- the probe


def test_probe_logs_and_keeps_the_best_checkpoint(striped, tmp_path):
    run = tmp_path / "runs" / "small"
    probe = TrainingProbe(striped, labels_per_class=20, device="cpu")
    train(striped, run, SMALL, options=OPTIONS, probe=probe, probe_updates=2)
    rows = lines(run / "probe.csv")
    assert [r["d_updates"] for r in rows] == ["0", "2", "4", "6"]  # the first with the initial weights
    assert {r["validation_images"] for r in rows} == {"180"}
    percents = [float(r["validation_percent"]) for r in rows]
    assert min(percents) > 60  # stripes of three directions; chance is 33
    best = read_checkpoint(run / "best")["settings"]["d_updates"]
    assert best == 2 * int(np.argmax(percents))
    assert load_encoder("small@best", home=tmp_path).name == f"small@{best}"
    before = (run / "probe.csv").read_text()
    probe(checkpoints(run)[-1])  # measured already, as after a resumption
    assert (run / "probe.csv").read_text() == before and (run / "probe.png").is_file()


def test_probe_measures_again_what_a_rewound_run_trained_again(striped, tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.gan.trainer.detect_collapse", false_alarm(6))
    after_two_updates = lambda run, d_updates: checkpoints(run)[1]  # noqa: E731
    monkeypatch.setattr("evalkit.gan.trainer.checkpoint_before", after_two_updates)
    accuracies = itertools.count(1)
    monkeypatch.setattr(TrainingProbe, "_measure", lambda *arguments: (1.0, float(next(accuracies))))
    options = TrainOptions(**{**vars(OPTIONS), "on_collapse": "rewind"})
    probe = TrainingProbe(striped, labels_per_class=20, device="cpu")
    train(striped, tmp_path / "run", SMALL, options=options, probe=probe, probe_updates=2)
    rows = [(r["d_updates"], r["rewinds"], r["validation_percent"]) for r in lines(tmp_path / "run" / "probe.csv")]
    # 0, 2 and 4 before the step back to 2; then 4 and 6 of the new line
    assert rows == [("0", "0", "1.00"), ("2", "0", "2.00"), ("4", "1", "4.00"), ("6", "1", "5.00")]


def test_probe_that_fails_does_not_end_the_run(striped, tmp_path, monkeypatch, caplog):
    def diverged(*args, **kwargs):
        raise EvalkitError("planted")

    monkeypatch.setattr("evalkit.evaluation.training_probe.extract", diverged)
    caplog.set_level(logging.INFO, logger="evalkit")
    probe = TrainingProbe(striped, labels_per_class=20, device="cpu")
    last = train(striped, tmp_path / "run", SMALL, options=OPTIONS, probe=probe, probe_updates=6)
    assert last.name == "d-00000006"
    assert caplog.messages == [f"probe after {d_updates} D updates: none (planted)" for d_updates in (0, 6)]


def test_probe_never_sees_test_images(striped, tmp_path):
    probe = TrainingProbe(striped, labels_per_class=20, device="cpu")
    first, end = striped.splits["test"]
    seen = {np.asarray(image).tobytes() for image in np.asarray(probe.images.images[np.arange(240)])}
    assert len(probe.images) == 240 and not seen & {np.asarray(p).tobytes() for p in striped.images[first:end]}


def test_tensorboard_has_the_numbers_of_metrics_csv(striped, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = TrainOptions(**{**vars(OPTIONS), "tensorboard": True})
    train(striped, tmp_path / "run", SMALL, options=options)
    events = reader.EventAccumulator(str(tmp_path / "run" / "events"))
    events.Reload()
    logged = [(e.step, round(e.value, 5)) for e in events.Scalars("d_loss")]
    expected = [(int(r["d_updates"]), float(r["d_loss"])) for r in lines(tmp_path / "run" / "metrics.csv")]
    assert logged == [(step, pytest.approx(value, abs=1e-5)) for step, value in expected]


def test_manifest_of_an_older_run_without_the_newer_values_resumes(striped, tmp_path):
    train(striped, tmp_path / "run", override(SMALL, {"d_updates": 2}), options=OPTIONS)
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("loss", "d_norm", "g_ema", "d_ema", "random_flip", "random_crop", "input_noise_std"):
        del manifest["settings"]["recipe"][key]
    path.write_text(json.dumps(manifest))
    assert train(striped, tmp_path / "run", SMALL, options=OPTIONS).name == "d-00000006"
