"""Writers of PNG, TIFF and PPM files of any depth, independent of Pillow, which cannot write most of them."""

import itertools
import struct
import zlib

import numpy as np

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type to numbers per pixel


def png_bytes(
    numbers: np.ndarray, colour_type: int, depth: int, *, filter_type: int = 0, extra: dict[bytes, bytes] | None = None
) -> bytes:
    """Encode numbers (height, width, channels) as a PNG of a colour type and depth.

    Args:
        numbers: Unsigned numbers of up to ``depth`` bits.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        depth: Bits of a number.
        filter_type: 0 for none, 1 for the difference to the pixel on the left.
        extra: Further chunks before the pixels.
    """
    height, width, channels = numbers.shape
    assert channels == PNG_CHANNELS[colour_type]
    lines = []
    for row in numbers.reshape(height, -1):
        line = row.astype(">u2").tobytes() if depth == 16 else _pack(row, depth)
        if filter_type == 1:
            step = max(1, channels * depth // 8)
            line = bytes((byte - (line[i - step] if i >= step else 0)) % 256 for i, byte in enumerate(line))
        lines.append(bytes([filter_type]) + line)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0),
        **(extra or {}),
        b"IDAT": zlib.compress(b"".join(lines)),
        b"IEND": b"",
    }
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _pack(row: np.ndarray, depth: int) -> bytes:
    bits = "".join(f"{int(number):0{depth}b}" for number in row)
    return bytes(int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8))


def tiff_bytes(
    numbers: np.ndarray,
    *,
    photometric: int,
    byte_order: str = "<",
    alpha: int | None = None,
    planar: bool = False,
    compressed: bool = False,
) -> bytes:
    """Encode numbers (height, width, channels) as an uncompressed or deflated TIFF with the depth and sign of their dtype.

    Args:
        numbers: Numbers of any integer or float dtype.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK, 8 LAB.
        byte_order: "<" or ">".
        alpha: Kind of the last channel (ExtraSamples); None if all channels are colours.
        planar: Whether the channels are stored one after another.
        compressed: Whether the pixels are deflated.
    """
    height, width, channels = numbers.shape
    pixels = (numbers.transpose(2, 0, 1) if planar else numbers).astype(numbers.dtype.newbyteorder(byte_order))
    strips = [plane.tobytes() for plane in pixels] if planar else [pixels.tobytes()]
    if compressed:
        strips = [zlib.compress(strip) for strip in strips]
    sample_format = {"u": 1, "i": 2, "f": 3}[numbers.dtype.kind]
    first_strip = 8
    offsets = [first_strip + sum(map(len, strips[:number])) for number in range(len(strips))]
    tags = {
        256: (width,),
        257: (height,),
        258: (numbers.dtype.itemsize * 8,) * channels,
        259: (8 if compressed else 1,),
        262: (photometric,),
        273: offsets,
        277: (channels,),
        278: (height,),
        279: [len(strip) for strip in strips],
        284: (2 if planar else 1,),
        **({} if alpha is None else {338: (alpha,)}),
        339: (sample_format,) * channels,
    }
    directory_at = first_strip + sum(map(len, strips))
    values_at = directory_at + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, numbers_of_tag in sorted(tags.items()):
        body = struct.pack(f"{byte_order}{len(numbers_of_tag)}I", *numbers_of_tag)
        if len(body) > 4:
            body, values = struct.pack(f"{byte_order}I", values_at + len(values)), values + body
        entries += struct.pack(f"{byte_order}HHI", tag, 4, len(numbers_of_tag)) + body
    magic = b"II*\0" if byte_order == "<" else b"MM\0*"
    directory = struct.pack(f"{byte_order}H", len(tags)) + entries + b"\0\0\0\0"
    return magic + struct.pack(f"{byte_order}I", directory_at) + b"".join(strips) + directory + values


def ppm_bytes(numbers: np.ndarray, maximum: int, *, as_text: bool = False) -> bytes:
    """Encode numbers (height, width, 1 or 3) as a PGM or PPM."""
    height, width, channels = numbers.shape
    magic = {(1, False): "P5", (3, False): "P6", (1, True): "P2", (3, True): "P3"}[channels, as_text]
    header = f"{magic} {width} {height} {maximum}\n".encode()
    if as_text:
        return header + " ".join(map(str, itertools.chain(numbers.flat))).encode()
    return header + numbers.astype(">u2" if maximum > 255 else "u1").tobytes()
