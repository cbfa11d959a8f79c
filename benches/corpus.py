"""Makes corpora of any size from a few texts, for benches and for measuring memory.

    python3 benches/corpus.py lines SOURCE.. --output FOLDER --megabytes 2048
    python3 benches/corpus.py document SOURCE.. --output FILE.jsonl --megabytes 200
    python3 benches/corpus.py pictures SOURCE.. --output FOLDER --count 200

`lines` writes JSON lines in files of 64 MB, rows of a few words to some thousand characters; `document` one row
(or, with a name that ends in .txt, one text). So that no cache of words or texts is flattered, a share of the words
of each row is new: their letters are shuffled by a generator with a fixed seed. `pictures` writes enlarged JPEG and
PNG files of 1280 pixels.
"""

import argparse
import json
import pathlib
import random
import re


def read(path):
    data = path.read_bytes()
    if path.suffix == ".zst":
        import zstandard
        data = zstandard.ZstdDecompressor().stream_reader(data).read()
    text = data.decode()
    if ".jsonl" in path.name:
        return "\n\n".join(json.loads(line)["text"] for line in text.splitlines())
    return text


def pieces(sources, length):
    paragraphs = re.split(r"\n\s*\n", "\n\n".join(read(pathlib.Path(source)) for source in sources))
    piece = ""
    for paragraph in paragraphs:
        piece += paragraph + "\n\n"
        if len(piece) >= length:
            yield piece
            piece = ""
    if piece:
        yield piece


def texts(sources, generator, length=3000, new=0.02):
    known = list(pieces(sources, length))
    while True:
        words = generator.choice(known).split(" ")
        words = words[: max(8, int(len(words) * generator.random()))]
        for place in range(len(words)):
            if generator.random() < new:
                letters = list(words[place])
                generator.shuffle(letters)
                words[place] = "".join(letters)
        yield " ".join(words)


def lines(arguments, generator):
    folder = pathlib.Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    rows = texts(arguments.sources, generator)
    left, number, row = arguments.megabytes * 1_000_000, 0, 0
    while left > 0:
        written = 0
        with open(folder / f"part-{number:04}.jsonl", "w") as file:
            while written < min(left, 64_000_000):
                written += file.write(json.dumps({"id": row, "text": next(rows)}, ensure_ascii=False) + "\n")
                row += 1
        left, number = left - written, number + 1


def document(arguments, generator):
    rows, parts, length = texts(arguments.sources, generator), [], 0
    while length < arguments.megabytes * 1_000_000:
        parts.append(next(rows))
        length += len(parts[-1].encode())
    text = "".join(parts)
    whole = text if arguments.output.endswith(".txt") else json.dumps({"text": text}, ensure_ascii=False) + "\n"
    pathlib.Path(arguments.output).write_text(whole)


def pictures(arguments, generator):
    from PIL import Image
    folder = pathlib.Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.count):
        picture = Image.open(generator.choice(arguments.sources)).convert("RGB")
        picture = picture.resize((1280, 960), Image.BICUBIC)
        picture.save(folder / f"{number:04}.jpg", quality=88)
        picture.save(folder / f"{number:04}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lines", "document", "pictures"])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--output", required=True)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    {"lines": lines, "document": document, "pictures": pictures}[arguments.what](arguments, random.Random(0))


if __name__ == "__main__":
    main()
