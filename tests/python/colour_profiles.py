"""Small colour profiles, and what littlecms makes of some colours with them.

    pip install pillow==13.0.0
    python tests/python/colour_profiles.py tests/golden/profiles
"""
import io
import json
import pathlib
import struct
import sys

from PIL import Image, ImageCms


def fixed(value):
    return struct.pack(">i", round(value * 65536))


def profile(space, tags):
    """A display profile of version 4 with these tags."""
    tags = {b"desc": text("test"), b"cprt": text("CC0"), b"wtpt": xyz(0.9642, 1.0, 0.8249)} | tags
    table, data, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI4s4s4s12s4s", 128 + len(body), b"\0\0\0\0", 0x04300000, b"mntr", space, b"XYZ ",
                       struct.pack(">6H", 2026, 1, 1, 0, 0, 0), b"acsp")
    head += b"\0" * 28 + fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    return head.ljust(128, b"\0") + body


def text(words):
    letters = words.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(letters), 28) + letters


def xyz(*values):
    return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


SRGB_CURVE = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(map(fixed, [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]))


def display(red, green, blue, curve):
    curves = {name: curve for name in [b"rTRC", b"gTRC", b"bTRC"]}
    return profile(b"RGB ", {b"rXYZ": xyz(*red), b"gXYZ": xyz(*green), b"bXYZ": xyz(*blue)} | curves)


PROFILES = {
    "display_p3": display((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407), SRGB_CURVE),
    "adobe_rgb": display((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), gamma(2.19921875)),
    "grey_gamma_1.8": profile(b"GRAY", {b"kTRC": gamma(1.8)}),
    "srgb": display((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141), SRGB_CURVE),
}

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (30, 180, 120), (90, 60, 200), (128, 128, 128), (20, 20, 20), (250, 240, 230), (5, 60, 90)]


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    srgb = ImageCms.createProfile("sRGB")
    for name, content in PROFILES.items():
        (folder / f"{name}.icc").write_bytes(content)
        mode = "L" if name.startswith("grey") else "RGB"
        source = ImageCms.ImageCmsProfile(io.BytesIO(content))
        change = ImageCms.buildTransform(source, srgb, mode, "RGB", renderingIntent=ImageCms.Intent.PERCEPTUAL)
        rows = []
        for colour in COLOURS:
            picture = Image.new(mode, (1, 1), colour if mode == "RGB" else colour[0])
            rows.append([colour if mode == "RGB" else [colour[0]] * 3, ImageCms.applyTransform(picture, change).getpixel((0, 0))])
        expected[name] = rows
    (folder / "srgb_of_littlecms.icc").write_bytes(ImageCms.ImageCmsProfile(srgb).tobytes())
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
