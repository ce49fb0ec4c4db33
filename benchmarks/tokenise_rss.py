"""Peak memory and speed of turning a large corpus into token shards.

usage: python benchmarks/tokenise_rss.py [--gigabytes 1]

Writes a synthetic corpus of that size (words with Zipf's frequencies), learns a vocabulary from a capped sample of it,
and tokenises it: once as documents of about 3 kB, once as a single document. Each row is a process of its own; memory
is the most that it, with any children, ever held.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from itertools import accumulate
from pathlib import Path

from langwright.corpora.opening import open_corpus
from langwright.corpora.sampling import sample_texts
from langwright.corpora.splits import split_documents
from langwright.data.texts import prepare
from langwright.text.training import train_bpe

VOCABULARY = 16_384
SAMPLE_BYTES = 50_000_000
WORDS = 50_000
WORDS_A_DOCUMENT = 500
HEADER = "| corpus | documents | tokens | after sample and BPE | peak RSS | read and hash | tokenise |"


def documents(size: int) -> Iterator[str]:
    """Synthetic documents, `size` bytes together; the same every time."""
    chance = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(WORDS)]
    weights = list(accumulate(1 / rank for rank in range(1, WORDS + 1)))
    written = 0
    while written < size:
        chosen = chance.choices(words, cum_weights=weights, k=WORDS_A_DOCUMENT)
        lines = (" ".join(chosen[start : start + 12]) for start in range(0, WORDS_A_DOCUMENT, 12))
        text = ".\n".join(lines)
        written += len(text) + 1
        yield text


def write_corpus(path: Path, size: int, separator: str) -> None:
    """Write the documents to a file, with this between them."""
    with path.open("w") as file:
        for text in documents(size):
            file.write(text + separator)


def peak() -> float:
    """The most memory this process, or one of its children, ever held, in MB."""
    scale = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) * scale / 1e6


def row(path: Path, split: str) -> str:
    """Tokenise the corpus at `path` and say what it took, as a row of the table."""
    with tempfile.TemporaryDirectory() as cache, redirect_stderr(StringIO()):
        corpus = open_corpus(str(path))
        start = time.perf_counter()
        size = corpus.record()["bytes"]
        reading = time.perf_counter() - start
        tokenizer = train_bpe(sample_texts(split_documents(corpus, split)[0], SAMPLE_BYTES), VOCABULARY)
        before = peak()
        start = time.perf_counter()
        parts = prepare(corpus, tokenizer, split, Path(cache))
        seconds = time.perf_counter() - start
        count, tokens = sum(len(part.bytes) for part in parts), sum(map(len, parts))
        rates = f"{size / reading / 1e6:.0f} MB/s | {size / seconds / 1e6:.1f} MB/s"
        return f"| {size / 1e9:.2f} GB | {count:,} | {tokens:,} | {before:.0f} MB | {peak():.0f} MB | {rates} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the corpus")
    parser.add_argument("--row", nargs=2, metavar=("FILE", "SPLIT"), help="one row only, for a file that exists")
    arguments = parser.parse_args()
    if arguments.row:
        print(row(Path(arguments.row[0]), arguments.row[1]))
        return
    print(HEADER)
    print("|---" * (HEADER.count("|") - 1) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.txt"
        for separator, split in (("\n<|endoftext|>\n", "5%"), ("\n", "0.9")):
            write_corpus(path, int(arguments.gigabytes * 1e9), separator)
            subprocess.run([sys.executable, __file__, "--row", str(path), split], check=True)


if __name__ == "__main__":
    main()
