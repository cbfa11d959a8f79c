"""Pictures a second of Pillow: decode, orient, resize the shorter side, crop the centre, on one core.

    python3 benches/picture.py FOLDER [SIZE]
"""

import io
import pathlib
import sys
import time

import numpy
import PIL
from PIL import Image, ImageOps


def crop(data, size):
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    width, height = picture.size
    scale = size / min(width, height)
    picture = picture.resize((max(size, round(width * scale)), max(size, round(height * scale))), Image.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return numpy.asarray(picture.crop((left, top, left + size, top + size)))


def main():
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    for kind in ("jpg", "png"):
        pictures = [path.read_bytes() for path in sorted(pathlib.Path(sys.argv[1]).glob(f"*.{kind}"))]
        if not pictures:
            continue
        start, decoded = time.perf_counter(), 0
        while time.perf_counter() - start < 3:
            for data in pictures:
                crop(data, size)
            decoded += len(pictures)
        rate = decoded / (time.perf_counter() - start)
        print(f"{kind}: {rate:.1f} pictures a second and core with Pillow {PIL.__version__}, to {size} x {size}")


if __name__ == "__main__":
    main()
