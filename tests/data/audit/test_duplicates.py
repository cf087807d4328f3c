import numpy as np
import pytest

from automl_cxr.data.audit.duplicates import find_duplicates
from automl_cxr.data.decode import decode_image, fit_square
from automl_cxr.data.phantoms import draw_phantoms
from tests.data.audit.image_changes import CHANGES, resize


@pytest.fixture(scope="module")
def phantom_images(tmp_path_factory):
    """Draw 120 phantoms of about 50 patients. A patient has up to four similar images, which are not copies."""
    folder = draw_phantoms(tmp_path_factory.mktemp("phantom_images") / "data", n_images=120, image_size=128, seed=3)
    return [decode_image(path) for path in sorted(folder.rglob("*.png"))]


def links_of(images):
    squares = np.stack([fit_square(image, 112) for image in images])
    sizes = np.array([image.shape for image in images], np.int32)
    return find_duplicates(squares, sizes)


def test_similar_radiographs_are_not_duplicates(phantom_images):
    assert links_of(phantom_images) == []


@pytest.mark.parametrize("change", CHANGES)
def test_each_kind_of_copy_is_found_without_false_positives(phantom_images, change):
    copies = [CHANGES[change](image) for image in phantom_images[:30]]
    links = links_of([*phantom_images, *copies])
    assert [(link.row, link.of) for link in links] == [(120 + row, row) for row in range(30)]
    assert {link.kind for link in links} == {"mirrored" if change in ("mirrored", "all of them") else "near"}


def test_identical_copies_are_linked_once(phantom_images):
    links = links_of([phantom_images[0], phantom_images[1], phantom_images[0], phantom_images[0]])
    assert [(link.row, link.of, link.kind) for link in links] == [(2, 0, "identical"), (3, 0, "identical")]


def test_k_copies_have_k_minus_1_links(phantom_images):
    changed = [CHANGES[change](phantom_images[0]) for change in CHANGES]
    assert len(links_of([phantom_images[0], *changed, *phantom_images[1:5]])) == len(changed)


def test_only_identical_pictures_are_found_in_small_squares(phantom_images):
    squares = np.stack([fit_square(image, 32) for image in [*phantom_images, phantom_images[0], resize(phantom_images[1])]])
    sizes = np.array([(128, 128)] * 121 + [(64, 64)], np.int32)
    assert [(link.row, link.of) for link in find_duplicates(squares, sizes)] == [(120, 0)]


def test_uniform_pictures_are_not_duplicates(phantom_images):
    uniform = [np.full((128, 128), level, np.uint8) for level in (0, 100, 255)]
    assert links_of([*phantom_images[:5], *uniform]) == []
