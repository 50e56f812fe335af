"""Duplicates: planted ones are detected, unrelated images are not; views index like arrays; leaks are dropped."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from evalkit.cli import main
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.images import ImageSet, load_images
from evalkit.images.dedup.dedup import _wilson_interval, dedup, dedup_summary
from evalkit.images.dedup.hashes import AutoencoderOptions, autoencoder_codes, exact, perceptual, train_autoencoder
from evalkit.images.dedup.matching import groups, max_correlation, similar_colors, similar_edges
from evalkit.images.imageset import Rows
from evalkit.images.prepare import prepare
from evalkit.workspace import Workspace

OPTIONS = AutoencoderOptions(images=2_500, batch_size=50)


def scenes(count: int, seed: int) -> np.ndarray:
    """Images, uint8 (count, 32, 32, 3), no two similar: random waves, weaker at high frequencies."""
    random = np.random.default_rng(seed)
    waves = np.cos(np.pi * np.arange(16)[:, None] * (np.arange(32) + 0.5) / 32)
    light, color = random.normal(0, 1, (count, 16, 16, 1)), random.normal(0, 0.2, (count, 16, 16, 3))
    weights = (light + color) / (1 + np.arange(16)[:, None, None] + np.arange(16)[:, None])
    images = np.einsum("nklc,ky,lx->nyxc", weights, waves, waves)
    return (127 + 45 * images).clip(0, 255).astype(np.uint8)


def shifted(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((1, 0), (0, 0), (0, 0)), mode="edge")[:32]


def brighter(image: np.ndarray) -> np.ndarray:
    return np.minimum(image * 1.15, 255).astype(np.uint8)


def encoded_again(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=85)
    return np.asarray(Image.open(stream))


@pytest.fixture(autouse=True)
def one_thread():
    """Steps of a millisecond: threads would wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def image_set(directory: Path, images: np.ndarray, name: str, *, test: int = 0) -> ImageSet:
    arrays = {"x_train": images[: len(images) - test], "y_train": np.arange(len(images) - test) % 3}
    if test:
        arrays |= {"x_test": images[-test:], "y_test": np.arange(test) % 3}
    np.savez(directory / f"{name}.npz", **arrays)
    return prepare(directory / f"{name}.npz", home=directory, workers=1)


@pytest.fixture
def planted(tmp_path) -> Path:
    """100 scenes; row 100 is row 5 again, 101 row 5 shifted, 102 row 7 brighter, 103 row 9 encoded again."""
    own = scenes(100, seed=0)
    copies = [own[5], shifted(own[5]), brighter(own[7]), encoded_again(own[9])]
    image_set(tmp_path, np.concatenate([own, copies]), "planted")
    return tmp_path / "images/planted"


def rows_by_group(view: Path) -> list[list[int]]:
    rows: dict[str, list[int]] = {}
    for line in csv.DictReader((view / "groups.csv").read_text().splitlines()):
        rows.setdefault(line["group"], []).append(int(line["row"]))
    return list(rows.values())


@pytest.mark.parametrize("mode,wanted", [("exact", [[5, 100]]), ("perceptual", [[5, 100, 101], [7, 102], [9, 103]])])
def test_value_planted_duplicates_are_found_and_the_first_stays(planted, tmp_path, mode, wanted):
    view = dedup(planted, home=tmp_path, name="view", mode=mode)
    assert rows_by_group(tmp_path / "images/view") == wanted
    gone = [row for group in wanted for row in group[1:]]
    kept = [row for row in range(104) if row not in gone]
    assert np.array_equal(np.asarray(view.images), np.load(planted / "images.npy")[kept])
    assert view.labels.tolist() == [row % 3 for row in kept]
    assert view.splits == {"train": (0, len(kept))}
    assert view.manifest["dedup"]["unlike"] == 0
    assert view.manifest["dedup"]["dropped"] == len(gone)
    assert f"{len(kept)} of 104 images kept, {len(gone)} duplicates in {len(wanted)} groups" in dedup_summary(view)[0]
    sheet = Image.open(tmp_path / "images/view" / "largest.png")
    assert np.array_equal(np.asarray(sheet)[:32, :32], np.load(planted / "images.npy")[5])
    assert sorted(path.name for path in (tmp_path / "images/view").iterdir()) == [
        "groups.csv",
        "largest.png",
        "manifest.json",
        "rows.npy",
    ]  # an index, no copy


def test_the_hash_of_the_paper_groups_equal_images(planted, tmp_path):
    """The paper's own procedure: equal codes, nothing compared."""
    paper = {"autoencoder": OPTIONS, "device": "cpu", "distance": 0, "confirm": False}
    view = dedup(planted, home=tmp_path, name="view", **paper)
    assert any({5, 100} <= set(group) for group in rows_by_group(tmp_path / "images/view"))
    again = dedup(planted, home=tmp_path, name="again", **paper)
    assert again.manifest["files"] == view.manifest["files"]  # determinism


def test_the_autoencoder_finds_the_planted_duplicates(planted, tmp_path):
    dedup(planted, home=tmp_path, name="view", autoencoder=OPTIONS, device="cpu")
    assert rows_by_group(tmp_path / "images/view") == [[5, 100, 101], [7, 102], [9, 103]]


def test_invariance_the_hash_of_the_paper_ignores_brightness():
    images = scenes(40, seed=4) // 2 + 20
    cpu = torch.device("cpu")
    model, _ = train_autoencoder(images, OPTIONS, seed=0, device=cpu)
    codes = autoencoder_codes(model, images, cpu, shifted=True)
    assert codes.shape == (40, 9, 16)
    assert len(np.unique(codes[:, 0], axis=0)) > 30
    assert np.array_equal(codes[:, :1], autoencoder_codes(model, images, cpu, shifted=False))
    brighter_by_far = autoencoder_codes(model, images + 60, cpu, shifted=False)
    assert np.unpackbits(codes[:, :1] ^ brighter_by_far).sum() <= 1  # a unit at zero, to float32's rounding


def test_the_autoencoder_learns_and_keeps_the_state_of_torchs_generator():
    images = scenes(60, seed=3)[:, ::4, ::4]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    errors = [
        train_autoencoder(images, AutoencoderOptions(images=shown, batch_size=50), seed=0, device=torch.device("cpu"))[
            1
        ]
        for shown in (50, 20_000)
    ]
    assert errors[1] < errors[0] / 3
    assert torch.equal(torch.get_rng_state(), state)


def test_images_shared_with_the_test_split_of_another_set_are_dropped(planted, tmp_path):
    own = np.load(planted / "images.npy")
    unrelated = scenes(20, seed=9)
    benchmark = np.concatenate([unrelated, own[[30]], unrelated[:3], own[[40]], shifted(own[41])[None]])
    image_set(tmp_path, benchmark, "benchmark", test=5)  # row 20, in its training split, does not count
    view = dedup(planted, home=tmp_path, name="view", mode="perceptual", against=tmp_path / "images/benchmark")
    assert view.manifest["dedup"]["dropped"] == 2
    assert len(view) == 102
    lines = (tmp_path / "images/view" / "groups.csv").read_text().splitlines()
    assert lines[1:] == [
        "0,planted,40,1,1",
        "0,benchmark,24,0,0",
        "1,planted,41,2,2",
        "1,benchmark,25,1,1",
    ]
    assert "2 also in benchmark (test)" in dedup_summary(view)[0]


def test_a_finished_view_is_returned_and_refused_when_its_images_changed(planted, tmp_path):
    first = dedup(planted, home=tmp_path, name="view", mode="exact")
    assert dedup(planted, home=tmp_path, name="view", mode="exact").sha256 == first.sha256
    assert first.sha256 not in (
        load_images(planted).sha256,
        dedup(planted, home=tmp_path, name="p", mode="perceptual").sha256,
    )
    with pytest.raises(EvalkitError, match="holds another image set .mode exact -> perceptual"):
        dedup(planted, home=tmp_path, name="view", mode="perceptual")
    prepare(tmp_path / "planted.npz", home=tmp_path, size=16, workers=1, replace=True)
    with pytest.raises(ArtifactError, match="view: a view of other images than those now in .*; run dedup again"):
        load_images(tmp_path / "images/view")


def test_the_command_takes_names_and_prints_the_folder_of_the_view(planted, tmp_path):
    image_set(tmp_path, scenes(4, seed=0), "other", test=2)
    workspace = Workspace(tmp_path)
    for options, name in (([], "planted-dedup"), (["--against", "other"], "planted-without-other")):
        result = CliRunner().invoke(main, ["--home", str(tmp_path), "dedup", "planted", "--mode", "exact", *options])
        assert result.exit_code == 0
        assert result.stdout == f"{workspace.path_of('image set', name)}\n"
        assert "images kept" in result.stderr
        assert load_images(tmp_path / "images" / name).name == name
    assert len(load_images(tmp_path / "images/planted-dedup")) == 103


def test_failure_modes_sizes_and_targets(planted, tmp_path):
    with pytest.raises(EvalkitError, match="no mode 'sha1'; choose from autoencoder, exact, perceptual"):
        dedup(planted, home=tmp_path, name="view", mode="sha1")
    with pytest.raises(EvalkitError, match="is the image set itself"):
        dedup(planted, home=tmp_path, name="planted", mode="exact")
    image_set(tmp_path, scenes(4, seed=0), "other", test=2)
    prepare(tmp_path / "other.npz", home=tmp_path, name="small", size=16, workers=1)
    with pytest.raises(EvalkitError, match="images of 32 x 32 and 16 x 16; prepare them in one size"):
        dedup(planted, home=tmp_path, name="view", mode="exact", against=tmp_path / "images/small")
    with pytest.raises(EvalkitError, match="no split 'extra'; it has train, test: choose with --against-split"):
        dedup(
            planted, home=tmp_path, name="view", mode="exact", against=tmp_path / "images/small", against_split="extra"
        )
    assert not (tmp_path / "images/view").exists()


def test_reference_rows_index_like_a_numpy_array():
    array = np.arange(60).reshape(10, 2, 3)
    chosen = np.array([1, 4, 5, 9])
    rows, plain = Rows(array, chosen), array[chosen]
    assert rows.shape == plain.shape
    assert len(rows) == 4
    assert rows.dtype == plain.dtype
    assert rows.ndim == 3
    for key in (2, -1, slice(1, 3), slice(None, None, 2), np.array([3, 0]), [1, 1], (slice(0, 2), 1), (3, 0, 2)):
        assert np.array_equal(np.asarray(rows[key]), plain[key])
    assert isinstance(rows[1:3][1:], Rows)
    assert np.array_equal(np.asarray(rows[1:3][1:]), plain[2:3])
    assert np.array_equal(np.array(rows), plain)


def near_by_comparing_all(codes: np.ndarray, distance: int) -> list[list[int]]:
    """The same groups by brute force: every pair, then transitive closure by repeated passes."""
    bits = np.unpackbits(codes, axis=2)
    apart = (bits[:, None, 0] != bits[None, :, 0]).sum(axis=2)
    for window in range(1, codes.shape[1]):
        one_way = (bits[:, None, 0] != bits[None, :, window]).sum(axis=2)
        apart = np.minimum(apart, np.minimum(one_way, one_way.T))
    near = (apart <= distance).astype(int)
    for _ in range(8):
        near = (near @ near > 0).astype(int)
    clusters = {tuple(np.flatnonzero(row).tolist()) for row in near}
    return sorted([list(group) for group in clusters if len(group) > 1])


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("distance", [0, 1, 3])
def test_reference_groups_equal_those_of_comparing_all_pairs(windows, distance):
    random = np.random.default_rng(distance)
    bits = np.zeros((300, windows if distance else 1, 64), np.uint8)
    bits[:, :, ::6] = random.integers(0, 2, (*bits.shape[:2], 11))  # 11 of 64 bits: many near ones
    codes = np.packbits(bits, axis=2)
    assert [group.tolist() for group in groups(codes, distance)] == near_by_comparing_all(codes, distance)


def max_correlation_by_loops(a: np.ndarray, b: np.ndarray) -> float:
    """The same by numpy's own correlation, a shift at a time."""
    middle = a[2:-2, 2:-2].ravel()
    shifts = [b[y : y + a.shape[0] - 4, x : x + a.shape[1] - 4].ravel() for y in range(5) for x in range(5)]
    return max(np.corrcoef(middle, moved)[0, 1] for moved in shifts)


def test_reference_max_correlation_is_the_best_correlation_over_shifts():
    one, two = scenes(2, seed=1).astype(np.float32)
    wanted = max_correlation_by_loops(one, two)
    assert max_correlation(one, two) == pytest.approx(wanted, abs=1e-5)  # float32, sums of 2,352 terms
    assert max_correlation(one, np.roll(one, (2, -1), axis=(0, 1))) == pytest.approx(1.0)


def test_value_copies_have_similar_colors_and_edges_and_unrelated_images_do_not():
    one, two = scenes(2, seed=1)
    for like in (similar_colors, similar_edges):
        assert like(one, shifted(one))
        assert like(one, brighter(one))
        assert like(one, encoded_again(one))
        assert not like(one, two)
    black = np.zeros_like(one)
    red = black + np.array([200, 0, 0], np.uint8)
    for like in (similar_colors, similar_edges):  # where there are no edges, colors decide
        assert like(black, black + 9)
        assert not like(black, black + 200)
        assert not like(black, one)
        assert not like(red, black)
        assert like(red, red - np.array([9, 0, 0], np.uint8))
        assert not like(red, np.roll(red, 1, axis=2))


def test_pairs_whose_images_differ_are_not_duplicates(planted, tmp_path):
    """At 24 of 64 bits unrelated images join the copies; comparing the images separates them."""
    loose = dedup(planted, home=tmp_path, name="loose", mode="perceptual", distance=24, confirm=False)
    view = dedup(planted, home=tmp_path, name="view", mode="perceptual", distance=24)
    assert loose.manifest["dedup"]["largest"] > 50
    assert loose.manifest["dedup"]["unlike"] > 50
    assert rows_by_group(tmp_path / "images/view") == [[5, 100, 101], [7, 102], [9, 103]]
    counts = view.manifest["dedup"]
    assert counts["pairs_confirmed"] == 4 < 50 < counts["pairs_proposed"]
    assert f"proposed {counts['pairs_proposed']:,} pairs, the images themselves confirmed 4" in dedup_summary(view)[1]


def test_dissimilar_images_with_equal_codes_form_different_groups():
    """Six rows of one code: 0, 2 and 4 are one image, 1 and 5 another."""
    codes, kind = np.zeros((6, 1, 8), np.uint8), [0, 1, 0, 2, 0, 1]
    separated = groups(codes, same=lambda a, b: kind[a] == kind[b])
    assert [group.tolist() for group in separated] == [[0, 2, 4], [1, 5]]
    assert [group.tolist() for group in groups(codes, 2, same=lambda a, b: kind[a] == kind[b])] == [[0, 2, 4], [1, 5]]


def test_value_codes():
    images = scenes(3, seed=2)
    assert np.array_equal(exact(images), exact(images.copy()))
    assert len(np.unique(exact(np.concatenate([images, images[:1] ^ 1])), axis=0)) == 4
    middle, down = perceptual(images[:1])[0, 0], perceptual(shifted(images[0])[None])[0]
    assert any(np.array_equal(middle, window) for window in down)  # a window of the shifted image is the middle's
    assert not np.array_equal(perceptual(images[:1])[0, 0], perceptual(images[1:2])[0, 0])


def test_value_wilson_interval():
    assert _wilson_interval(0, 200) == pytest.approx((0, 1.885), abs=1e-3)  # z^2 / (n + z^2)
    assert _wilson_interval(5, 10) == pytest.approx((23.66, 76.34), abs=1e-2)  # Wilson 1927's formula by hand
