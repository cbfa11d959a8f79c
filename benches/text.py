"""Tokens a second of text with Hugging Face `tokenizers` and numpy, from JSON lines to packed rows on the disk.

    RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python3 benches/text.py tokenizer.json FOLDER

What people do today: each line through `json`, texts in batches through `encode_batch`, ids with BOS and EOS one behind
the other, cut into rows of 4,096 and saved with numpy as uint16. (Cutting anywhere is less work than best fit.)
"""

import json
import pathlib
import sys
import tempfile
import time

import numpy
import tokenizers

CONTEXT = 4096


def batches(folder, rows=512):
    batch = []
    for path in sorted(pathlib.Path(folder).glob("*.jsonl")):
        with open(path) as file:
            for line in file:
                batch.append(json.loads(line)["text"])
                if len(batch) == rows:
                    yield batch
                    batch = []
    if batch:
        yield batch


def pack(tokenizer, folder, output):
    rest, tokens, part = numpy.empty(0, numpy.uint16), 0, 0
    for batch in batches(folder):
        ids = [numpy.array([1, *encoding.ids, 2], numpy.uint16)
               for encoding in tokenizer.encode_batch(batch, add_special_tokens=False)]
        tokens += sum(map(len, ids))
        rest = numpy.concatenate([rest, *ids])
        rows = len(rest) // CONTEXT
        if rows >= 1024:
            numpy.save(output / f"{part:05}.npy", rest[: rows * CONTEXT].reshape(rows, CONTEXT))
            rest, part = rest[rows * CONTEXT:], part + 1
    numpy.save(output / f"{part:05}.npy", rest)
    return tokens


def main():
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    for _ in range(3):
        with tempfile.TemporaryDirectory() as output:
            start, before = time.perf_counter(), time.process_time()
            tokens = pack(tokenizer, sys.argv[2], pathlib.Path(output))
            wall, processor = time.perf_counter() - start, time.process_time() - before
        print(f"tokenizers {tokenizers.__version__} + numpy: {tokens / 1e6:.2f} M tokens in {wall:.2f} s, "
              f"{tokens / 1e6 / processor:.2f} Mtok/s a core (processor time {processor:.2f} s)")


if __name__ == "__main__":
    main()
