"""Small SentencePiece models of the kinds that are not Llama's, and the ids that sentencepiece gives.

    pip install sentencepiece==0.2.3
    python tests/python/sentencepiece_models.py tests/golden/sentencepiece

The texts are written here, so that nothing but this script is needed.
"""
import io
import json
import pathlib
import random
import sys

import sentencepiece as spm

WORDS = """the a red blue green small large circle square triangle star moon above below left right of on white black
background picture shows two three four birds houses river stone light water morning evening walk sing paper
straße café naïve über señor façade Ångström день ночь вода 日本語 東京 水 山 ünï 12 345 2024 3.14 x=1; foo_bar()""".split()


def sentences(count):
    chooser = random.Random(7)
    for _ in range(count):
        yield " ".join(chooser.choice(WORDS) for _ in range(chooser.randint(3, 12)))


# sentencepiece's own table of normalization makes a model of 240 KB; this one does the same things to few characters.
RULES = {
    "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u200b": " ", "\u0001": "", "\u007f": "", "ﬁ": "fi", "½": "1⁄2",
    "①": "1", "②": "2", "③": "3", "ｆ": "f", "ｕ": "u", "ｌ": "l", "e\u0301": "é", "o\u0308": "ö", "Ａ": "A",
    "\u00b4": " \u0301", "A": "a", "ß": "ss",
}
COMMON = dict(hard_vocab_limit=False, num_threads=1, minloglevel=2)
KINDS = {
    "unigram_bytes": dict(model_type="unigram", vocab_size=420, byte_fallback=True, character_coverage=0.98),
    "unigram": dict(model_type="unigram", vocab_size=160),
    "unigram_symbols": dict(
        model_type="unigram", vocab_size=420, byte_fallback=True, user_defined_symbols=["<pic>", "<pic>x", "re"],
        remove_extra_whitespaces=False, split_digits=True),
    "unigram_suffix": dict(
        model_type="unigram", vocab_size=420, byte_fallback=True, treat_whitespace_as_suffix=True),
    "bpe_suffix": dict(model_type="bpe", vocab_size=420, byte_fallback=True, treat_whitespace_as_suffix=True),
    "bpe_no_bytes": dict(model_type="bpe", vocab_size=160, character_coverage=0.98, add_dummy_prefix=False),
    "bpe_over_words": dict(
        model_type="bpe", vocab_size=460, byte_fallback=True, split_by_whitespace=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["<pic>", "<pic>x", "re"]),
    "bpe_symbols": dict(
        model_type="bpe", vocab_size=420, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, user_defined_symbols=["<pic>", "<pic>x", "re"], allow_whitespace_only_pieces=True),
    "char": dict(model_type="char", vocab_size=120, character_coverage=0.98),
    "word": dict(model_type="word", vocab_size=60),
    "word_no_prefix": dict(model_type="word", vocab_size=60, add_dummy_prefix=False),
}

TEXTS = [
    "", " ", "a", "the red circle", " the  red   circle ", "\tthe\nred\r\n\ncircle", "straße café naïve", "ﬁne ①②③ ｆｕｌｌ Å ½",
    "день 日本語東京 水山", "🦀 crab 🦀🦀", "x=1; foo_bar()", "<s> </s> <unk> <0x41> x</s>y<s>z", "<pic> a<pic>x b <pic>xy re red there",
    "▁▁ a▁b ▁", "12345 678 3.14159", "A RED Circle ABOVE", "e\u0301 o\u0308 \u200b\u200d \u00a0\u3000x", "aaaaaaaaaaaaaaaa", "\u0000 \u0001 \u007f",
    "\ufeffbom \ufffd", "नमस्ते दुनिया", "q z Q Z qqq zzz", "    ", "a ", " a", "\n", "red\u2581blue", "\u0e19\u0e49\u0e33", "🏳️‍🌈 family",
]


def more_texts():
    chooser = random.Random(11)
    letters = "abcdeirs  \t\n▁<>/pic12éß日水🦀Ａﬁ"
    for _ in range(120):
        yield "".join(chooser.choice(letters) for _ in range(chooser.randint(1, 30)))
    yield from sentences(20)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    texts = TEXTS + list(more_texts())
    table = folder / "rules.tsv"
    code_points = lambda text: " ".join(f"{ord(letter):x}" for letter in text)
    table.write_text("".join(f"{code_points(source)}\t{code_points(target)}\n" for source, target in RULES.items()))
    for name, options in KINDS.items():
        if "normalization_rule_name" not in options and "--own-rules" not in sys.argv:
            options["normalization_rule_tsv"] = str(table)
        model = io.BytesIO()
        spm.SentencePieceTrainer.train(sentence_iterator=sentences(3000), model_writer=model, **COMMON, **options)
        (folder / f"{name}.model").write_bytes(model.getvalue())
        processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
        lines = [" ".join(map(str, processor.encode(text))) for text in texts]
        (folder / f"{name}.ids").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    table.unlink()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
