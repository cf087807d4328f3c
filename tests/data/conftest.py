"""Small images and folders that the tests of this room write."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
    def write(path: Path, *, seed: int = 0, shape: tuple[int, int] = (16, 20)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
        return path

    return write


@pytest.fixture
def write_folders(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Write images by their relative paths below a new folder and return it."""

    def write(images: Sequence[str], name: str = "data") -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for seed, image in enumerate(images):
            write_image(root / image, seed=seed)
        return root

    return write
