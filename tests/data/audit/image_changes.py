"""Changes that typical copies of a radiograph have: resized, compressed, brightened, mirrored."""

import io

import numpy as np
from PIL import Image


def resize(image, factor=0.5):
    height, width = image.shape
    return np.asarray(Image.fromarray(image).resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC))


def compress(image, quality=30):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def brighten(image, factor=1.2, offset=15):
    return np.clip(image * factor + offset, 0, 255).astype(np.uint8)


def mirror(image):
    return np.ascontiguousarray(image[:, ::-1])


CHANGES = {
    "resized": resize,
    "compressed": compress,
    "brightened": brighten,
    "darkened": lambda image: brighten(image, 0.7, 0),
    "mirrored": mirror,
    "all of them": lambda image: compress(brighten(resize(mirror(image)))),
}
