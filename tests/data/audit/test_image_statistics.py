import numpy as np
from PIL import Image, ImageDraw

from automl_cxr.data.audit.image_statistics import CORNERS, has_lettering, measure_image_statistics
from automl_cxr.data.cache import decode_dataset


def statistics_of(folder, size=112):
    ids = sorted(path.name for path in folder.iterdir())
    decoded = decode_dataset(folder, ids, size)
    return measure_image_statistics(folder, ids, decoded.open(), decoded.original_sizes).set_index(np.array(ids))


def grey_field(height=224, width=224, seed=0):
    rng = np.random.default_rng(seed)
    steps = np.linspace(60, 140, width)[None, :] + np.linspace(0, 30, height)[:, None]
    return np.clip(steps + rng.normal(0, 6, (height, width)), 0, 255).astype(np.uint8)


def test_sizes_and_formats_are_read_from_the_content_of_the_files(tmp_path):
    Image.fromarray(grey_field(200, 100)).save(tmp_path / "a.png")
    Image.fromarray(grey_field(100, 200)).save(tmp_path / "b.jpg")
    Image.fromarray(grey_field(100, 100)).save(tmp_path / "c.png", format="JPEG")
    found = statistics_of(tmp_path)
    assert list(found["file_format"]) == ["PNG", "JPEG", "JPEG"]
    assert list(found["aspect_ratio"]) == [0.5, 2.0, 1.0]
    assert found["bytes_per_pixel"]["a.png"] == (tmp_path / "a.png").stat().st_size / 20_000


def test_rows_of_an_array_have_no_file_size(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([grey_field(64, 64, seed) for seed in range(2)]))
    ids = ["x.npy#0", "x.npy#1"]
    decoded = decode_dataset(tmp_path, ids, 64)
    found = measure_image_statistics(tmp_path, ids, decoded.open(), decoded.original_sizes)
    assert list(found["file_format"]) == ["NumPy", "NumPy"]
    assert list(found["bytes_per_pixel"]) == [0, 0]


def test_uniform_borders_are_measured_by_side(tmp_path):
    image = grey_field()
    image[:56] = 0
    image[:, -28:] = 255
    image[:56, -28:] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    found = statistics_of(tmp_path).iloc[0]
    assert abs(found["border_top"] - 0.25) < 0.02
    assert found["border_bottom"] == found["border_left"] == 0
    assert found["black"] > 0.2


def test_lettering_is_found_in_its_corner_and_not_in_a_plain_radiograph(tmp_path, phantoms):
    with Image.open(sorted(phantoms.rglob("*.png"))[0]) as source:
        chest = source.convert("L").resize((224, 224)).point(lambda value: value // 2)
    chest.save(tmp_path / "plain.png")
    for corner, position in zip(CORNERS, [(6, 6), (180, 6), (6, 200), (180, 200)], strict=True):
        marked = chest.copy()
        ImageDraw.Draw(marked).text(position, "AP L", fill=255, font_size=16)
        marked.save(tmp_path / f"{corner}.png")
    for size in (112, 224):
        suspected = has_lettering(statistics_of(tmp_path, size))
        assert not suspected.loc["plain.png"].any()
        for corner in CORNERS:
            assert list(suspected.columns[suspected.loc[f"{corner}.png"]]) == [corner]
