"""Typical copies of a radiograph: resized, compressed, brightened, mirrored."""

import io

import numpy as np
from PIL import Image


def resized(image, factor=0.5):
    height, width = image.shape
    return np.asarray(Image.fromarray(image).resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC))


def compressed(image, quality=30):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def brightened(image, factor=1.2, offset=15):
    return np.clip(image * factor + offset, 0, 255).astype(np.uint8)


def mirrored(image):
    return np.ascontiguousarray(image[:, ::-1])


CHANGES = {
    "resized": resized,
    "compressed": compressed,
    "brightened": brightened,
    "darkened": lambda image: brightened(image, 0.7, 0),
    "mirrored": mirrored,
    "all of them": lambda image: compressed(brightened(resized(mirrored(image)))),
}
