"""word2vec beside gensim's: words per second and quality, same text, same settings, in turn, in one run.

    python benchmarks/word_vectors.py [--corpus FILE] [--words N] [--epochs 5] [--rounds 1] [--workers 1] [--seed 0]

The corpus is text/novels.txt.xz of $LANGWRIGHT_DATA unless given, the tests questions-words.txt and wordsim353.tsv
beside it. gensim is given the words that we split, in sentences of the 10,000 words that it takes at most. Words per
second count the words of the vocabulary, by the clock and by the time of the processor, which says more on a shared
machine; reading and counting words is not in it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gensim.models import Word2Vec

from langwright.base.files import data_folder
from langwright.baselines.word2vec import Word2VecRecipe, train_vectors
from langwright.baselines.word_tests import answer_analogies, judge_similarity
from langwright.baselines.word_vectors import WordVectors
from langwright.baselines.words import EncodedWords, encode_words
from langwright.corpora.opening import open_corpus

SENTENCE = 10_000


def clocked(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of some work, seconds by the clock, and seconds of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - clock, time.process_time() - processor


def gensims(text: EncodedWords, recipe: Word2VecRecipe) -> tuple[WordVectors, float, float]:
    """What gensim learns from the same words with the same settings."""
    hierarchical = recipe.loss == "hierarchical-softmax"
    words = np.array(text.words, object)
    ids = text.ids[text.ids < len(words)]
    sentences = [words[ids[i : i + SENTENCE]].tolist() for i in range(0, len(ids), SENTENCE)]
    model = Word2Vec(
        vector_size=recipe.dimension, window=recipe.window, min_count=1, sample=recipe.sample, seed=recipe.seed,
        sg=int(recipe.architecture == "skip-gram"), hs=int(hierarchical),
        negative=0 if hierarchical else recipe.negative, alpha=recipe.learning_rate,
        workers=recipe.workers, epochs=recipe.epochs,
    )  # fmt: skip
    model.build_vocab(sentences)
    _, clock, processor = clocked(
        lambda: model.train(sentences, total_examples=model.corpus_count, epochs=model.epochs)
    )
    return WordVectors(model.wv.index_to_key, model.wv.vectors), clock, processor


def ours(text: EncodedWords, recipe: Word2VecRecipe) -> tuple[WordVectors, float, float]:
    """What we learn."""
    result: tuple[WordVectors, float, float] = clocked(lambda: train_vectors(text, recipe))
    return result


def rows(text: EncodedWords, arguments: argparse.Namespace) -> Iterator[str]:
    """A line of the table for each architecture, loss and program."""
    folder = data_folder()
    total = int(text.counts.sum()) * arguments.epochs
    for architecture in arguments.architectures:
        for loss in arguments.losses:
            found: dict[str, list[tuple[float, ...]]] = {"langwright": [], "gensim": []}
            for turn in range(arguments.rounds):
                recipe = Word2VecRecipe(
                    architecture, loss, epochs=arguments.epochs, workers=arguments.workers, seed=arguments.seed + turn
                )
                for name, train in (("langwright", ours), ("gensim", gensims)):
                    vectors, clock, processor = train(text, recipe)
                    quality: tuple[float, ...] = ()
                    if folder:
                        answers = answer_analogies(vectors, folder / "word_vectors/questions-words.txt")
                        similar = judge_similarity(vectors, folder / "word_vectors/wordsim353.tsv")
                        quality = (100 * answers.right / answers.asked, 100 * similar.spearman)
                    found[name].append((total / clock, total / processor, *quality))
            medians = {
                name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()
            }
            for name, (speed, rate, *quality) in medians.items():
                ratio = rate / medians["gensim"][1]
                cells = [architecture, loss, name, f"{speed:,.0f}", f"{rate:,.0f}", f"{ratio:.2f}x"]
                yield "| " + " | ".join([*cells, *(f"{value:.1f}" for value in quality)]) + " |"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus")
    parser.add_argument("--words", type=int, help="only this many words of the text")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--architectures", nargs="+", default=["skip-gram", "cbow"])
    parser.add_argument("--losses", nargs="+", default=["negative-sampling", "hierarchical-softmax"])
    arguments = parser.parse_args()
    folder = data_folder()
    corpus = arguments.corpus or (str(folder / "text/novels.txt.xz") if folder else "python-stdlib")
    text = encode_words((document.text for document in open_corpus(corpus)), 5, 5)
    if arguments.words:
        ids = text.ids[: arguments.words]
        kept, counts = np.unique(ids[ids < len(text.words)], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        rank = np.full(len(text.words) + 1, len(kept), np.int32)
        rank[kept[order]] = np.arange(len(kept), dtype=np.int32)
        text = EncodedWords(tuple(text.words[i] for i in kept[order]), counts[order], rank[ids])
    print(f"{len(text.words):,} words, {int(text.counts.sum()):,} in the text, {arguments.workers} workers\n")
    quality = " analogies | WordSim |" if folder else ""
    print(f"| architecture | loss | program | words/s | words/s of processor | of gensim |{quality}")
    print("|---|---|---|---|---|---|" + ("---|---|" if folder else ""))
    for row in rows(text, arguments):
        print(row, flush=True)


if __name__ == "__main__":
    main()
