"""The cache of decoded images: reuse, damage, interruption and concurrency."""

import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import JPEGLosslessSV1

from automl_cxr.cache_folder import cache_folder
from automl_cxr.data.cache import DecodedImages, decode_dataset
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.decode import FITS, decode_content, decode_image, decoder_versions, fit_square
from automl_cxr.errors import DataError, ImageMemoryError, UnknownNameError, UsageError

WriteFolders = Callable[..., Path]
IDS = ("a/0.png", "a/1.png", "b/2.png", "b/3.png")


@pytest.fixture
def root(write_folders: WriteFolders) -> Path:
    return write_folders(IDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Progress:
    """Records progress calls. There are none if the images are cached."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


def decode(root: Path, folder: Path, ids: tuple[str, ...] = IDS, size: int = 16) -> tuple[DecodedImages, bool]:
    progress = Progress()
    decoded = decode_dataset(root, ids, size, folder=folder, on_progress=progress)
    return decoded, bool(progress.calls)


def store_of(decoded: DecodedImages) -> Path:
    return decoded.path.parent.parent


def test_rows_are_the_decoded_images_in_order(root: Path, folder: Path) -> None:
    decoded, _ = decode(root, folder)
    assert decoded.ids == IDS
    expected = np.stack([fit_square(decode_image(root / image), 16) for image in IDS])
    np.testing.assert_array_equal(decoded.open(), expected)
    assert decoded.original_sizes.tolist() == [[16, 20]] * 4
    assert decoded.open().dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        decoded.open().array[0] = 0


def test_a_second_call_decodes_nothing_and_returns_the_same(root: Path, folder: Path) -> None:
    first, decoded_first = decode(root, folder)
    second, decoded_second = decode(root, folder)
    assert (decoded_first, decoded_second) == (True, False)
    assert first == second
    np.testing.assert_array_equal(first.original_sizes, second.original_sizes)


def test_progress_counts_every_image(root: Path, folder: Path) -> None:
    progress = Progress()
    decode_dataset(root, IDS, 16, folder=folder, on_progress=progress, n_workers=1)
    assert progress.calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_workers_do_not_change_the_result(root: Path, folder: Path) -> None:
    single = decode_dataset(root, IDS, 16, folder=folder / "1", n_workers=1)
    parallel = decode_dataset(root, IDS, 16, folder=folder / "8", n_workers=8)
    assert single.digest == parallel.digest
    np.testing.assert_array_equal(single.open(), parallel.open())


def test_unreadable_images_are_reported_with_their_reasons(root: Path, folder: Path) -> None:
    (root / "a" / "0.png").write_bytes(b"")
    (root / "b" / "2.png").write_text("no image")
    decoded, _ = decode(root, folder, (*IDS, "b/gone.png"))
    assert decoded.ids == ("a/1.png", "b/3.png")
    assert {image: reason.split(" (")[0] for image, reason in decoded.unreadable.items()} == {
        "a/0.png": "empty file",
        "b/2.png": "not an image in a known format",
        "b/gone.png": "missing",
    }
    assert decoded.open().shape == (2, 16, 16)
    np.testing.assert_array_equal(decoded.open()[1], fit_square(decode_image(root / "b/3.png"), 16))
    second, was_decoded = decode(root, folder, (*IDS, "b/gone.png"))
    assert second == decoded
    assert not was_decoded


def test_an_unreadable_image_is_tried_again_with_another_decoder(
    root: Path, folder: Path, write_dicom: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package for lossless JPEG is installed after the first call, as the reason advises."""
    pixels = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16)
    dataset = pydicom.dcmread(write_dicom(root / "b" / "x.dcm", pixels))
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = pydicom.encaps.encapsulate([pixels.tobytes()])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(root / "b" / "x.dcm")
    ids = (*IDS, "b/x.dcm")
    assert "no installed package decodes" in decode(root, folder, ids)[0].unreadable["b/x.dcm"]
    assert not decode(root, folder, ids)[1]
    installed = {"pylibjpeg-libjpeg": "2.3.0", **decoder_versions()}
    monkeypatch.setattr("automl_cxr.data.cache.decoder_versions", lambda: installed)
    decoder = pydicom.pixels.get_decoder(JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {"installed": lambda source, _runner: bytes(source)})
    decoded, was_decoded = decode(root, folder, ids)
    assert was_decoded
    assert decoded.ids == ids
    assert decode(root, folder, ids) == (decoded, False)


def test_a_lack_of_memory_is_not_stored(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as context:
        context.setattr(Image.Image, "load", fail)
        np.save(root / "a" / "y.npy", np.arange(256, dtype=np.uint8).reshape(16, 16))
        ids = (*IDS, "a/y.npy")
        decoded, _ = decode(root, folder, ids)
        assert set(decoded.unreadable) == set(IDS)
        assert "too large for the free memory" in decoded.unreadable[IDS[0]]
    assert decode(root, folder, ids)[0].ids == ids


def test_the_hash_of_each_readable_file_is_kept_in_the_cache(root: Path, folder: Path) -> None:
    (root / "a" / "1.png").write_text("no image")
    expected = [hashlib.sha256((root / image).read_bytes()).digest() for image in ("a/0.png", "b/2.png", "b/3.png")]
    for is_decoded in (True, False):
        decoded, was_decoded = decode(root, folder)
        assert was_decoded == is_decoded
        assert [row.tobytes() for row in decoded.content_hashes] == expected


def test_an_image_that_is_added_later_is_decoded(root: Path, folder: Path, write_image: Callable[..., Path]) -> None:
    ids = (*IDS, "b/late.png")
    assert decode(root, folder, ids)[0].unreadable == {"b/late.png": "missing"}
    write_image(root / "b" / "late.png", seed=9)
    assert decode(root, folder, ids)[0].ids == ids


def test_a_data_set_without_readable_images_is_refused_with_reasons(root: Path, folder: Path) -> None:
    for image in IDS:
        (root / image).write_bytes(b"")
    with pytest.raises(DataError, match=r"all 4 in .* are unreadable \('a/0\.png': empty file"):
        decode(root, folder)


def test_changed_content_gives_a_new_array_even_with_the_old_time_and_size(root: Path, folder: Path) -> None:
    first, _ = decode(root, folder)
    path = root / "a" / "0.png"
    status = path.stat()
    other = (root / "b" / "3.png").read_bytes()
    path.write_bytes(other[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second, was_decoded = decode(root, folder)
    assert was_decoded
    assert second.digest != first.digest
    assert second.path != first.path


def test_touched_or_copied_files_share_the_images(
    root: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = decode(root, folder)
    monkeypatch.setattr("automl_cxr.data.decoding_threads.decode_content", None)  # they are read, but not decoded
    (root / "a" / "0.png").touch()
    shutil.copytree(root, tmp_path / "copy")
    for source in (root, tmp_path / "copy"):
        decoded, was_read = decode(source, folder)
        assert was_read
        assert (decoded.path, decoded.digest) == (first.path, first.digest)


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded = []

    def count(content: bytes) -> np.ndarray:
        decoded.append(len(content))
        return decode_content(content)

    monkeypatch.setattr("automl_cxr.data.decoding_threads.decode_content", count)
    return decoded


def test_only_new_contents_are_decoded(
    root: Path, folder: Path, write_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another selection, another order, a new file, and a new file with a known content."""
    decoded = count_decoded(monkeypatch)
    decode(root, folder, IDS[:3])
    assert len(decoded) == 3
    write_image(root / "b" / "new.png", seed=9)
    shutil.copy(root / "a" / "1.png", root / "b" / "copy.png")
    ids = ("b/new.png", "b/copy.png", "b/3.png", "a/0.png", "b/2.png")
    images, _ = decode(root, folder, ids)
    assert len(decoded) == 5
    np.testing.assert_array_equal(images.open()[:], [fit_square(decode_image(root / image), 16) for image in ids])
    assert images.open().rows.tolist()[1] == 1
    assert decode(root, folder, ids[::-1])[1] is False
    assert len(decoded) == 5


def test_equal_files_of_one_call_are_stored_once(root: Path, folder: Path) -> None:
    shutil.copy(root / "a" / "1.png", root / "b" / "copy.png")
    images, _ = decode(root, folder, (*IDS, "b/copy.png"))
    assert images.open().rows.tolist() == [0, 1, 2, 3, 1]


def test_an_unreadable_file_whose_reason_is_temporary_is_the_only_one_that_is_read_again(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = (root / "a" / "1.png").read_bytes()

    def fail(content: bytes) -> np.ndarray:
        if content == bad:
            raise ImageMemoryError("too large for the free memory")
        return decode_content(content)

    with monkeypatch.context() as context:
        context.setattr("automl_cxr.data.decoding_threads.decode_content", fail)
        assert decode(root, folder)[0].unreadable == {"a/1.png": "too large for the free memory"}
    decoded = count_decoded(monkeypatch)
    assert decode(root, folder, ("a/0.png", "b/2.png", "b/3.png"))[1] is False
    assert decode(root, folder)[0].ids == IDS
    assert decoded == [len(bad)]


def test_the_digest_depends_on_names_and_contents_but_not_on_image_size(root: Path, folder: Path) -> None:
    small, large = decode(root, folder, size=16)[0], decode(root, folder, size=24)[0]
    assert small.digest == large.digest
    assert large.open().shape == (4, 24, 24)
    (root / "a" / "0.png").rename(root / "a" / "9.png")
    assert decode(root, folder, ("a/9.png", *IDS[1:]))[0].digest != small.digest


def test_each_fit_has_its_own_array(root: Path, folder: Path) -> None:
    decoded = {fit: decode_dataset(root, IDS, 16, fit=fit, folder=folder) for fit in FITS}
    assert len({images.path for images in decoded.values()}) == len(FITS)
    assert len({images.digest for images in decoded.values()}) == 1
    for fit, images in decoded.items():
        np.testing.assert_array_equal(images.open()[0], fit_square(decode_image(root / IDS[0]), 16, fit))
        assert decode_dataset(root, IDS, 16, fit=fit, folder=folder) == images


def test_rows_of_an_array_are_images(tmp_path: Path, folder: Path) -> None:
    ids = tuple(f"x.npy#{row}" for row in range(4))
    images = np.random.default_rng(0).random((4, 16, 20, 1))
    np.save(tmp_path / "x.npy", images)
    first, _ = decode(tmp_path, folder, ids)
    expected = np.stack([fit_square(np.rint(255 * image[..., 0]).astype(np.uint8), 16) for image in images])
    np.testing.assert_array_equal(first.open(), expected)
    assert first.original_sizes.tolist() == [[16, 20]] * 4
    second, was_decoded = decode(tmp_path, folder, ids)
    assert (second, was_decoded) == (first, False)
    (tmp_path / "x.npy").unlink()  # the file is mapped, so it must not be overwritten
    np.save(tmp_path / "x.npy", np.concatenate([images[:3], images[:1]]))
    changed, was_decoded = decode(tmp_path, folder, ids)
    assert was_decoded
    assert changed.digest != first.digest
    np.testing.assert_array_equal(changed.open()[[0, 3]], expected[[0, 0]])


def test_equal_bytes_of_another_shape_are_another_image(tmp_path: Path, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, 16 * 32, np.uint8)
    digests = set()
    for shape in ((1, 16, 32), (1, 32, 16), (1, 16, 16, 1)):
        np.save(tmp_path / f"{len(digests)}.npy", pixels[: np.prod(shape)].reshape(shape))
        (tmp_path / f"{len(digests)}.npy").rename(tmp_path / "x.npy")
        digests.add(decode(tmp_path, folder, ("x.npy#0",))[0].digest)
    assert len(digests) == 3


def test_two_folders_with_equal_names_sizes_and_times_have_separate_arrays(tmp_path: Path, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pixels = rng.integers(0, 256, (16, 16), np.uint8)
        (tmp_path / name / "x.pgm").write_bytes(b"P5 16 16 255\n" + pixels.tobytes())
        os.utime(tmp_path / name / "x.pgm", (1, 1))
    arrays = [decode(tmp_path / name, folder, ("x.pgm",))[0].open() for name in ("one", "two")]
    assert (arrays[0][:] != arrays[1][:]).any()


def truncate(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 1)


def shorten(path: Path) -> None:
    path.write_bytes(b"\0" * 10)


@pytest.mark.parametrize("damage", [truncate, shorten, Path.unlink])
@pytest.mark.parametrize("name", ["pixels.bin", "files.index"])
def test_damaged_files_of_the_store_are_replaced(root: Path, folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    first, _ = decode(root, folder)
    expected = first.open()[:]
    damage(store_of(first) / name)
    second, was_decoded = decode(root, folder)
    assert was_decoded
    assert (second.ids, second.digest) == (first.ids, first.digest)
    np.testing.assert_array_equal(second.open()[:], expected)


def test_a_damaged_record_concerns_only_its_image(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = decode(root, folder)
    expected = first.open()[:]
    index = store_of(first) / "files.index"
    content = bytearray(index.read_bytes())
    content[len(content) // 4 + 20] ^= 1  # of the second of four records
    index.write_bytes(content)
    decoded = count_decoded(monkeypatch)
    second, _ = decode(root, folder)
    assert decoded == [(root / IDS[1]).stat().st_size]
    assert second.open().rows.tolist() == [0, 4, 2, 3]  # the old row is not used again
    np.testing.assert_array_equal(second.open()[:], expected)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\xff\xfe"])
def test_a_damaged_selection_is_written_again(root: Path, folder: Path, content: bytes) -> None:
    first, _ = decode(root, folder)
    first.path.write_bytes(content)
    second, was_decoded = decode(root, folder)
    assert (second, was_decoded) == (first, False)
    assert second.open().shape == (4, 16, 16)


def test_an_interruption_loses_nothing(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_dataset(root, IDS, 16, folder=folder, on_progress=interrupt)
    decoded = count_decoded(monkeypatch)
    assert decode(root, folder)[0].open().shape == (4, 16, 16)
    assert len(decoded) == 1


def test_a_kill_loses_only_the_last_block(write_folders: WriteFolders, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is killed at a random image, and while it writes: its files end with a part of a row and of a record."""
    ids = tuple(f"{number}.png" for number in range(30))
    root = write_folders(ids)
    script = (
        "import os, signal, sys; from pathlib import Path; from automl_cxr.data import cache\n"
        "cache.BLOCK_FILES = 4\n"
        "cache.decode_dataset(Path(sys.argv[1]), sys.argv[4:], 16, folder=Path(sys.argv[2]),"
        " on_progress=lambda done, total: done == int(sys.argv[3]) and os.kill(os.getpid(), signal.SIGKILL))"
    )
    n_stored = 0
    for n_done in np.random.default_rng(0).integers(3, 12, 2).tolist():
        child = subprocess.run([sys.executable, "-c", script, root, folder, str(n_done), *ids], check=False, cwd=Path.cwd())
        assert child.returncode == -signal.SIGKILL
        n_stored += n_done // 4 * 4
        (store,) = (path for path in (folder / "decoded").iterdir() if path.name != "locks")
        for name in ("pixels.bin", "files.index"):
            with (store / name).open("ab") as file:
                file.write(b"torn")
    decoded = count_decoded(monkeypatch)
    images, _ = decode(root, folder, ids)
    assert len(decoded) == 30 - n_stored
    np.testing.assert_array_equal(images.open()[:], [fit_square(decode_image(root / image), 16) for image in ids])


def _decode_and_count(root: Path, folder: Path, ids: list[str], barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    progress = Progress()
    decoded = decode_dataset(root, ids, 64, folder=folder, on_progress=progress)
    results.put((len(progress.calls), decoded.digest, int(decoded.open()[:].sum())))  # type: ignore[attr-defined]


def test_two_processes_at_once_decode_once(write_folders: WriteFolders, folder: Path) -> None:
    ids = [f"{number}.png" for number in range(60)]
    root = write_folders(ids)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (root, folder, ids, barrier, results)
    processes = [context.Process(target=_decode_and_count, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    (first_count, *first), (second_count, *second) = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted((first_count, second_count)) == [0, 60]
    assert first == second


def test_a_full_disk_is_reported_with_a_remedy(write_folders: WriteFolders, folder: Path) -> None:
    root = write_folders(IDS)
    script = (
        "import resource, sys; from pathlib import Path; from automl_cxr.data.cache import decode_dataset\n"
        "from automl_cxr.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: decode_dataset(Path(sys.argv[1]), sys.argv[3:], 512, folder=Path(sys.argv[2]))\n"
        "except DataError as error: sys.exit(str(error))"
    )
    child = subprocess.run([sys.executable, "-c", script, root, folder, *IDS], check=False, stderr=subprocess.PIPE)
    stderr = child.stderr.decode()
    assert f"'{folder}' has no space left" in stderr
    assert "set AUTOML_CXR_CACHE to another folder" in stderr
    assert "Traceback" not in stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
    assert decode_dataset(root, IDS, 512, folder=folder).open().shape == (4, 512, 512)


def test_a_cache_folder_that_is_a_file_is_refused(root: Path, folder: Path) -> None:
    folder.write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written .*AUTOML_CXR_CACHE"):
        decode(root, folder)


def test_the_cache_may_be_deleted_at_any_time(root: Path, folder: Path) -> None:
    first, _ = decode(root, folder)
    shutil.rmtree(folder)
    second, was_decoded = decode(root, folder)
    assert was_decoded
    assert second == first


def test_the_cache_folder_is_set_by_the_environment(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert decode_dataset(root, IDS, 16).path.is_relative_to(tmp_path / "mine")
    monkeypatch.delenv("AUTOML_CXR_CACHE")
    assert cache_folder().name == "automl_cxr"


def test_invalid_arguments_are_refused(root: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="from 8 to 4096; received 4"):
        decode(root, folder, size=4)
    with pytest.raises(UnknownNameError, match="Unknown fit 'squash'"):
        decode_dataset(root, IDS, 16, fit="squash", folder=folder)
    with pytest.raises(DataError, match="at least one image"):
        decode(root, folder, ())


def test_covid3_is_opened_from_the_cache_within_a_second(test_data: Path, folder: Path) -> None:
    dataset = load_dataset(test_data / "data" / "covid3")
    ids = tuple(dataset.table["image"])
    first, _ = decode(dataset.root, folder, ids, 32)
    start = time.perf_counter()
    second, was_decoded = decode(dataset.root, folder, ids, 32)
    assert time.perf_counter() - start < 0.3
    assert not was_decoded
    assert second == first
    assert second.open().shape == (910, 32, 32)
    assert second.unreadable == {}
