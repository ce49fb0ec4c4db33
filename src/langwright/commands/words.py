"""langwright words: vectors of words, trained, asked and measured."""

import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from langwright.base.console import print_json, progress, say
from langwright.base.errors import UserError, check_flag
from langwright.base.files import refuse_file, write_json
from langwright.baselines.word2vec import Word2VecRecipe, train_vectors
from langwright.baselines.word_tests import RESTRICTED, Analogies, answer_analogies, judge_similarity
from langwright.baselines.word_vectors import WordVectors, parse_expression, read_vectors, write_vectors
from langwright.baselines.words import encode_words
from langwright.corpora.opening import open_corpus

VECTORS = "vectors.txt"
RECORD = "words.json"


def words(
    corpus: str,
    out: Path | None = None,
    /,
    analogy: str | None = None,
    near: str | None = None,
    questions: Path | None = None,
    similarity: Path | None = None,
    restrict: int = RESTRICTED,
    top: int = 10,
    save: Path | None = None,
    field: str = "text",
    recipe: Word2VecRecipe = Word2VecRecipe(),
    json: bool = False,
) -> None:
    """Train word vectors (word2vec) on a corpus, or ask vectors that are there.

    Args:
        corpus: with OUT a corpus as for pretrain: a file, folder, glob or name. Without OUT vectors to ask: the folder
            of an earlier call, or a file in word2vec's text format or, ending in .bin, its binary format.
        out: the folder for vectors.txt, in word2vec's text format.
        analogy: a sum of words, such as "king - man + woman"; the nearest other words are shown.
        near: a word; those nearest to it are shown.
        questions: a file of analogies such as questions-words.txt, to be answered.
        similarity: a file of pairs of words with people's scores, such as wordsim353.tsv, to compare with.
        restrict: questions are about this many of the most frequent words.
        top: how many near words are shown.
        save: write the vectors to this file too: binary where it ends in .bin, else text.
        field: the field or column that holds the text, in corpora that have several.
        recipe: how vectors are trained.
        json: print the result as JSON.
    """
    check_flag("top", top, top >= 1, "at least 1")
    check_flag("restrict", restrict, restrict >= 1, "at least 1")
    plus, minus = parse_expression(analogy) if analogy is not None else ([], [])
    report: dict[str, Any] = {}
    if out is None:
        changed = [item.name for item in fields(recipe) if getattr(recipe, item.name) != item.default]
        if changed:
            flag = changed[0].replace("_", "-")
            raise UserError(f"--{flag} is for training; name the folder OUT after the corpus {corpus}")
        vectors = read_vectors(_vectors_file(corpus))
    else:
        vectors, report["training"] = _train(corpus, out, field, recipe)
    if save is not None:
        write_vectors(vectors, save)
        say(f"wrote {save}")
    if analogy is not None:
        report["analogy"] = _near(vectors, plus, minus, top)
    if near is not None:
        report["near"] = _near(vectors, [near], [], top)
    if questions is not None:
        answers = answer_analogies(vectors, questions, restrict)
        sections = {name: {"right": right, "asked": asked} for name, (right, asked) in answers.sections.items()}
        total = {"right": answers.right, "asked": answers.asked, "skipped": answers.skipped}
        report["questions"] = {"accuracy": answers.right / answers.asked, **total, "sections": sections}
    if similarity is not None:
        report["similarity"] = asdict(judge_similarity(vectors, similarity))
    if json:
        print_json(report)
        return
    for asked in ("analogy", "near"):
        if asked in report:
            print("\n".join(f"{item['cosine']:6.3f}  {item['word']}" for item in report[asked]))
    if questions is not None:
        print(_answers(answers))
    if similarity is not None:
        found = report["similarity"]
        print(f"Spearman {found['spearman']:.4f} over {found['pairs']} pairs, {found['skipped']} skipped")
    if out is None and not report and save is None:
        print(f"{len(vectors.words):,} words, {vectors.vectors.shape[1]} dimensions; ask with --near or --analogy")


def _train(corpus: str, out: Path, field: str, recipe: Word2VecRecipe) -> tuple[WordVectors, dict[str, Any]]:
    """The vectors of a corpus, written to the folder OUT, and how it went."""
    refuse_file(out)
    source = open_corpus(corpus, field=field)
    with progress(f"reading {corpus}", None, "characters") as advance:
        text = encode_words((document.text for document in source), recipe.min_count, recipe.window, advance)
    start = time.perf_counter()
    with progress("training", len(text.ids) * recipe.epochs, "words") as advance:
        vectors = train_vectors(text, recipe, advance)
    seconds = time.perf_counter() - start
    total = int(text.counts.sum())
    report = {
        "vocabulary": len(text.words),
        "words": total,
        "seconds": round(seconds, 2),
        "words_per_second": round(total * recipe.epochs / seconds),
    }
    write_vectors(vectors, out / VECTORS)
    write_json(out / RECORD, {"format_version": 1, "corpus": corpus, **asdict(recipe), **report})
    say(
        f"wrote {out}: {len(text.words):,} words from {total:,}, "
        f"{recipe.epochs} epochs at {report['words_per_second']:,} words/s"
    )
    return vectors, report


def _vectors_file(place: str) -> Path:
    """The file of vectors that a folder or a path means."""
    path = Path(place).expanduser()
    file = path / VECTORS if path.is_dir() else path
    if not file.exists():
        raise UserError(f"{place}: no word vectors are there; to train some, name the folder OUT after the corpus")
    return file


def _near(vectors: WordVectors, plus: Sequence[str], minus: Sequence[str], top: int) -> list[dict[str, Any]]:
    return [{"word": word, "cosine": cosine} for word, cosine in vectors.nearest(plus, minus, top)]


def _answers(answers: Analogies) -> str:
    """A line a section, and one for all."""
    rows = [*answers.sections.items(), ("all", (answers.right, answers.asked))]
    width = max(len(name) for name, _ in rows)
    lines = [
        f"{name:{width}}  {right:6,} of {asked:6,} right" + (f"  {right / asked:6.1%}" if asked else "")
        for name, (right, asked) in rows
    ]
    return "\n".join([*lines, f"{answers.skipped:,} questions have a word without a vector"])
