"""Predictions: validation, files and alignment."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring import predictions as scoring_predictions
from automl_cxr.scoring.predictions import Predictions, align

SHARED_ARRAYS = {"ids", "classes", "patients", "labels"}  # of all trials of a study


def draw(n: int = 6, k: int = 3, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions(
        ids=tuple(f"image{i}.png" for i in range(n)),
        labels=rng.integers(k, size=n),
        probabilities=rng.dirichlet(np.ones(k), size=n).astype(np.float32),
        classes=tuple(f"class{i}" for i in range(k)),
        patients=tuple(f"patient{i // 2}" for i in range(n)),
    )


def changed(**changes: object) -> dict[str, object]:
    good = draw()
    fields = {name: getattr(good, name) for name in ("ids", "labels", "probabilities", "classes", "patients")}
    return fields | changes


def rows(*values: list[float]) -> np.ndarray:
    return np.array([*values, *[[0.2, 0.3, 0.5]] * (6 - len(values))], dtype=np.float32)


def test_argument_types_are_converted() -> None:
    predictions = Predictions(["a", "b"], [1, -1], np.array([[0.25, 0.75], [1.0, 0.0]]), ["no", "yes"])  # type: ignore[arg-type]
    assert predictions.ids == ("a", "b")
    assert predictions.labels.dtype == np.int64
    assert predictions.probabilities.dtype == np.float32
    assert predictions.patients == ("a", "b"), "each image is its own patient if patients are unknown"
    assert predictions.predicted.tolist() == [1, 0]
    assert len(predictions) == 2
    arrays = Predictions(np.array(["a"]), np.array([0]), np.array([[1.0, 0.0]]), np.array(["x", "y"]), np.array(["p"]))  # type: ignore[arg-type]
    assert (arrays.ids, arrays.classes, arrays.patients) == (("a",), ("x", "y"), ("p",))
    assert type(arrays.ids[0]) is str


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ("a",) * 6}, "without duplicates. Received 'a'"),
        ({"ids": tuple(range(6))}, "ids as a list of strings"),
        ({"ids": "abcdef"}, "ids as a list of strings"),
        ({"classes": ("x", "y", "x")}, "classes without duplicates"),
        ({"patients": ("p",) * 5}, "one patient for each image. Received 5 for 6"),
        ({"labels": np.zeros(5, int)}, r"shape \(6,\)"),
        ({"labels": np.full(6, 3)}, "from 0 to 2"),
        ({"labels": np.full(6, -2)}, "from 0 to 2"),
        ({"labels": np.full(6, 0.5)}, "must be integers"),
        ({"probabilities": rows([0.5, 0.5, 0.5])}, "sums to 1.5"),
        ({"probabilities": rows([np.nan, 0.5, 0.5])}, "must be finite"),
        ({"probabilities": rows([np.inf, 0.5, 0.5])}, "must be finite"),
        ({"probabilities": rows([1.5, -0.5, 0.0])}, "from 0 to 1"),
        ({"probabilities": np.ones((6, 2), np.float32) / 2}, r"floats of shape \(6, 3\)"),
        ({"probabilities": np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]]}, "floats of shape"),
        ({"probabilities": np.ones((6, 1), np.float32), "classes": ("x",), "labels": np.zeros(6, int)}, "two classes"),
    ],
)
def test_invalid_predictions_are_refused_on_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Predictions(**changed(**changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_float16_rounding_errors_are_accepted() -> None:
    halves = draw(n=200, k=14).probabilities.astype(np.float16)
    predictions = Predictions(tuple(map(str, range(200))), np.zeros(200, int), halves, tuple(map(str, range(14))))
    assert predictions.probabilities.dtype == np.float32


def test_take_keeps_rows_together() -> None:
    predictions = draw()
    part = predictions.take(predictions.labels == predictions.labels[2])
    assert "image2.png" in part.ids
    assert set(part.labels) == {predictions.labels[2]}
    reversed_order = predictions.take(slice(None, None, -1))
    assert reversed_order.ids == predictions.ids[::-1]
    assert reversed_order.patients == predictions.patients[::-1]
    np.testing.assert_array_equal(reversed_order.probabilities, predictions.probabilities[::-1])
    assert len(predictions.take([])) == 0


def test_unknown_labels_and_no_images_cannot_be_scored() -> None:
    unlabelled = Predictions(**changed(labels=np.array([0, -1, 1, -1, 0, 0])))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="2 of 6 images without one"):
        unlabelled.require_labels()
    with pytest.raises(DataError, match="at least one image"):
        draw().take(slice(0, 0)).require_labels()


def test_npz_round_trip_with_odd_names(tmp_path: Path) -> None:
    unusual_names = ("ä, b;c.png", "胸部/レントゲン.dcm", 'quote".png', "line\nbreak", "broken\udcff.png", "🫁")
    saved = Predictions(**changed(ids=unusual_names, patients=unusual_names, classes=("a,b", "ü", "c d")))  # type: ignore[arg-type]
    saved.to_npz(tmp_path / "valid.npz")
    loaded = Predictions.from_npz(tmp_path / "valid.npz")
    for name in ("ids", "patients", "classes"):
        assert getattr(loaded, name) == getattr(saved, name)
    for name in ("labels", "probabilities"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
        assert getattr(loaded, name).dtype == getattr(saved, name).dtype


def test_npz_of_no_images(tmp_path: Path) -> None:
    draw().take(slice(0, 0)).to_npz(tmp_path / "empty.npz")
    assert len(Predictions.from_npz(tmp_path / "empty.npz")) == 0


def test_saving_replaces_the_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "valid.npz"
    path.write_bytes(b"old")
    draw().to_npz(path)
    assert Predictions.from_npz(path).ids == draw().ids
    assert os.listdir(tmp_path) == ["valid.npz"]
    reference = tmp_path / "reference"
    reference.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(reference.stat().st_mode), "the file has the usual permissions"


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "valid.npz"
    draw(seed=1).to_npz(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        draw(seed=2).to_npz(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["valid.npz"]


def test_every_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "valid.npz"
    draw().to_npz(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"valid\.npz"):
            Predictions.from_npz(path)


def flip_bits(path: Path, n: int, *, is_first: bool) -> tuple[set[str], int]:
    """Flip one random bit of a file at a time and read it. Return the arrays with refused damage, and how often it was refused.

    Args:
        path: The file; its content is that of ``draw``.
        n: Number of bits.
        is_first: Whether the file is the first one of its images, so that the arrays that the trials of a study share are read.
    """
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), []
    array_at = arrays_by_position(path)
    for _ in range(n):
        damaged, position = bytearray(whole), int(rng.integers(len(whole)))
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        if is_first:
            scoring_predictions._images_of.cache_clear()
        try:
            loaded = Predictions.from_npz(path)
        except DataError:
            refused.append(array_at.get(position, ""))
        else:  # the bit is unused, repeats the same bytes from another place, or is in an array that is not read again
            np.testing.assert_array_equal(loaded.probabilities, draw().probabilities)
            np.testing.assert_array_equal(loaded.labels, draw().labels)
            assert (loaded.ids, loaded.classes, loaded.patients) == (draw().ids, draw().classes, draw().patients)
    return set(refused), len(refused)


def arrays_by_position(path: Path) -> dict[int, str]:
    """Return the name of the array at each position of an archive that has compressed data."""
    whole, found = path.read_bytes(), {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            n_name, n_extra = (int.from_bytes(whole[info.header_offset + start :][:2], "little") for start in (26, 28))
            first = info.header_offset + 30 + n_name + n_extra
            found |= dict.fromkeys(range(first, first + info.compress_size), info.filename.removesuffix(".npy"))
    return found


def test_flipped_bits_of_all_arrays_are_found_when_the_images_are_first_read(tmp_path: Path) -> None:
    path = tmp_path / "valid.npz"
    draw().to_npz(path)
    arrays, n_refused = flip_bits(path, 300, is_first=True)
    assert arrays >= {*SHARED_ARRAYS, "probabilities"}
    assert n_refused > 150


def test_flipped_bits_of_the_probabilities_are_found_in_a_later_file_of_the_same_images(tmp_path: Path) -> None:
    """Arrays that have the checksums of an earlier file are not read again, so damage to them has no effect."""
    path = tmp_path / "valid.npz"
    draw().to_npz(path)
    Predictions.from_npz(path)
    arrays, n_refused = flip_bits(path, 300, is_first=False)
    assert "probabilities" in arrays
    assert not arrays & SHARED_ARRAYS
    assert n_refused > 60


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_python_objects_in_a_file_are_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {name: np.array(getattr(draw(), name)) for name in ("labels", "probabilities", "classes", "patients")}
    np.savez("pickled.npz", ids=np.array([Malicious()] * 6, dtype=object), **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Object arrays"):
        Predictions.from_npz("pickled.npz")
    assert not os.path.exists("exploded")


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", ids=np.array(["a"]))
    good = {name: np.array(getattr(draw(), name)) for name in ("labels", "probabilities", "classes", "patients")}
    np.savez(tmp_path / "numbers.npz", ids=np.arange(6), **good)  # type: ignore[arg-type]
    for name in ("one.npy", "other.npz", "numbers.npz", "missing.npz", "."):
        with pytest.raises(DataError, match="Evaluate the trial again"):
            Predictions.from_npz(tmp_path / name)


def test_align_matches_rows_by_id() -> None:
    first = draw(n=20)
    order = np.random.default_rng(5).permutation(20)
    stacked, reference = align([first, first.take(order)])
    np.testing.assert_array_equal(stacked[0], stacked[1])
    assert stacked.shape == (2, 20, 3)
    assert stacked.dtype == np.float32
    assert reference is first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("class1", "class0", "class2")}, "the same classes. Received in member 1"),
        ({"ids": ("image0.png", "new", *(f"image{i}.png" for i in range(2, 6)))}, "without 'image1.png', with 'new'"),
        ({"labels": (draw().labels + 1) % 3}, "different labels for 6 images, such as 'image0.png'"),
    ],
)
def test_the_error_of_align_names_the_difference(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        align([draw(), Predictions(**changed(**changes))])  # type: ignore[arg-type]


def test_align_refuses_missing_or_extra_images_and_no_members() -> None:
    with pytest.raises(DataError, match="1 missing, 0 more"):
        align([draw(), draw().take(slice(1, None))])
    with pytest.raises(DataError, match="0 missing, 1 more"):
        align([draw().take(slice(1, None)), draw()])
    with pytest.raises(UsageError, match="at least one member"):
        align([])
