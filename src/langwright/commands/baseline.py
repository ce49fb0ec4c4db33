"""langwright baseline: what came before neural networks, on the same files, for a model to beat."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from langwright.base.console import print_json, progress
from langwright.base.errors import UserError, check_flag
from langwright.base.files import read_text
from langwright.baselines.classifiers import commonest, scores, word_classifier
from langwright.baselines.finite_state import FiniteState
from langwright.baselines.grammar import read_grammar
from langwright.baselines.gzip_knn import nearest_neighbours, vote
from langwright.baselines.ngram import NGram, largest_order
from langwright.baselines.symbols import Bytes, Symbols, Words, sentences_of
from langwright.corpora.document import Corpus
from langwright.corpora.labelled import Columns, LabelledRow, label_names, read_labelled
from langwright.corpora.opening import open_corpus
from langwright.corpora.parts import part_of, parts_in
from langwright.corpora.splits import split_documents, split_items

Kind = Literal["ngram", "finite-state", "grammar", "one-hot", "bag-of-words", "gzip-knn"]
Unit = Literal["bytes", "words"]

LONGEST = {"bytes": 400, "words": 100}
"""Where a sample is cut."""

OPTIONS: dict[str, str] = {
    "ngram": "split field unit order sample sentence",
    "finite-state": "split field unit states iterations sample sentence",
    "grammar": "sample sentence",
    "one-hot": "split per_class strength text_field second_field label_field",
    "bag-of-words": "split per_class strength text_field second_field label_field",
    "gzip-knn": "split per_class neighbours processes text_field second_field label_field",
}
"""The options of each kind, beside --seed and --json."""


def baseline(
    kind: Kind,
    train: str,
    test: str | None = None,
    /,
    *,
    split: str | None = None,
    field: str | None = None,
    columns: Columns = Columns(),
    per_class: int | None = None,
    unit: Unit | None = None,
    order: int | None = None,
    states: int | None = None,
    iterations: int | None = None,
    sample: int | None = None,
    sentence: tuple[str, ...] = (),
    strength: float | None = None,
    neighbours: int | None = None,
    processes: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train a classical model, and measure it: what a neural network must beat to be worth its cost.

    Models of text: ngram (Kneser-Ney), finite-state (a probabilistic automaton), grammar (TRAIN holds its rules).
    Classifiers of labelled rows: one-hot (which words), bag-of-words (how often, pairs too), gzip-knn (compression).

    Args:
        kind: ngram, finite-state, grammar, one-hot, bag-of-words or gzip-knn.
        train: a corpus as for pretrain, rows with labels, or the rules of a grammar: S -> NP VP [0.9] | 'yes' [0.1].
        test: what to measure on, of the same form; for a grammar, sentences, one a line. Not needed where rows of
            TRAIN have a column split.
        split: without TEST, hold out part of TRAIN and measure on that, such as 10%.
        field: the field or column that holds the text of a corpus; text unless given.
        columns: which columns of labelled rows hold what.
        per_class: learn from this many rows of each label, drawn by --seed.
        unit: what text is made of, bytes unless given; sentences of words are lines, in lower case.
        order: symbols of an n-gram; 6 bytes or 4 words unless given.
        states: states of the automaton; 16 unless given.
        iterations: steps in which it learns; 40 unless given.
        sample: write this many sentences drawn from the model.
        sentence: print the probability of this sentence; more than one may be given.
        strength: how far the weights of words may go from zero; 1 for one-hot, 10 for bag-of-words unless given.
        neighbours: how many nearest neighbours vote; 2 unless given, as in the paper.
        processes: how many processes compare texts; as many as there are processors unless given.
        seed: of all that is drawn.
        json: print the result as one JSON object.
    """
    given = {
        "split": split, "field": field, "per_class": per_class, "unit": unit, "order": order, "states": states,
        "iterations": iterations, "sample": sample, "sentence": sentence or None, "strength": strength,
        "neighbours": neighbours, "processes": processes,
        **vars(columns),
    }  # fmt: skip
    if (
        kind in ("one-hot", "bag-of-words", "gzip-knn")
        and test is None
        and split is None
        and {"train", "test"} <= parts_in(train)
    ):
        test = train
    _check(kind, {name: value for name, value in given.items() if value is not None}, test)
    check_flag("seed", seed, seed >= 0, "0 or more")
    rng, result = np.random.default_rng(seed), dict[str, Any](baseline=kind)
    if kind in ("one-hot", "bag-of-words", "gzip-knn"):
        rows, measured = _labelled(train, test, split, columns)
        rows = rows if per_class is None else _few(rows, per_class, seed, train)
        result |= {"labels": len(label_names(rows, train)), "rows": len(rows)}
        if kind == "gzip-knn":
            result |= _compressed(rows, measured, neighbours or 2, seed, processes)
        else:
            result |= _classified(rows, measured, kind, strength)
        usual = commonest([row.label for row in rows])
        result["commonest_accuracy"] = sum(row.label == usual for row in measured) / len(measured)
        result["test_rows"] = len(measured)
    elif kind == "grammar":
        result |= _with_grammar(Path(train), test, sentence, sample or 0, rng)
    else:
        training, testing = _corpora(train, test, split, field or "text")
        unit = unit or "bytes"
        whole = kind == "ngram" and unit == "bytes"  # automata and words are of sentences
        symbols: Symbols = Bytes() if unit == "bytes" else Words.of(s for d in training for s in sentences_of(d.text))
        pieces = [symbols.encode(piece) for d in training for piece in ([d.text] if whole else sentences_of(d.text))]
        model: NGram | FiniteState
        if kind == "ngram":
            order = order or (6 if unit == "bytes" else 4)
            model = _ngram(pieces, symbols.size, order)
            result |= {"unit": unit, "order": order}
        else:
            states, iterations = states or 16, iterations or 40
            model = _automaton(pieces, symbols.size, states, iterations, rng)
            result |= {"unit": unit, "states": states, "iterations": iterations}
        if testing is not None:
            result |= _measured(model, symbols, testing, whole)
        drawn = [model.sample(rng, LONGEST[unit]) for _ in range(sample or 0)]
        result |= _said([symbols.decode(ids) for ids in drawn], [_chain(model, symbols, text) for text in sentence])
    _print(result, json)


def _classified(
    rows: Sequence[LabelledRow],
    measured: Sequence[LabelledRow],
    kind: Literal["one-hot", "bag-of-words"],
    strength: float | None,
) -> dict[str, Any]:
    """What a linear classifier of words makes of the rows."""
    classifier = word_classifier([row.whole for row in rows], [row.label for row in rows], kind, strength)
    said = classifier.predict([row.whole for row in measured])
    return scores([row.label for row in measured], list(map(str, said)))


def _ngram(pieces: Sequence[Any], size: int, order: int) -> NGram:
    """Counts of up to `order` symbols out of `size`."""
    most = largest_order(size)
    check_flag("order", order, order <= most, f"at most {most} for {size:,} symbols")
    return NGram.train(pieces, order, size)


def _automaton(pieces: Sequence[Any], size: int, states: int, iterations: int, rng: np.random.Generator) -> FiniteState:
    """An automaton over `size` symbols."""
    with progress("learning", iterations * sum(map(len, pieces)), "symbols") as told:
        return FiniteState.train(pieces, states=states, alphabet=size, iterations=iterations, rng=rng, told=told)


def _check(kind: Kind, given: Mapping[str, Any], test: str | None) -> None:
    """Options that the kind does not have, and values that make no sense, before anything is read."""
    for name, value in given.items():
        if name not in OPTIONS[kind].split():
            raise UserError(f"--{name.replace('_', '-')}: {kind} has no such option")
        if isinstance(value, int | float):
            check_flag(name, value, value > 0, "above 0")
    if test is not None and "split" in given:
        raise UserError("--split: holds out part of TRAIN, and so goes without TEST")
    if test is None and not {"split", "sample", "sentence"}.intersection(given):
        offered = [f"--{name}" for name in ("split", "sample", "sentence") if name in OPTIONS[kind].split()]
        raise UserError(f"nothing to do: name a file to measure on as TEST, or give {' or '.join(offered)}")


def _labelled(
    train: str, test: str | None, split: str | None, columns: Columns
) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """The rows to learn from and those to measure on."""
    train = part_of(train, "train")
    rows = read_labelled(train, columns)
    if test is not None:
        return rows, read_labelled(part_of(test, "test"), columns, known=label_names(rows, train))
    return split_items(rows, split or "10%", lambda row: row.whole, spec=train, what="rows")


def _few(rows: Sequence[LabelledRow], count: int, seed: int, spec: str) -> list[LabelledRow]:
    """As many rows of each label, drawn at random."""
    rng, drawn = Random(seed), []
    for label in label_names(rows, spec):
        there = [row for row in rows if row.label == label]
        check_flag("per_class", count, count <= len(there), f'at most {len(there)}, the rows of "{label}" in {spec}')
        drawn += rng.sample(there, count)
    return drawn


def _compressed(
    rows: Sequence[LabelledRow], measured: Sequence[LabelledRow], k: int, seed: int, processes: int | None
) -> dict[str, Any]:
    """What gzip and the nearest neighbours make of the rows."""
    check_flag("neighbours", k, k <= len(rows), f"at most {len(rows)}, the rows to learn from")
    texts, labels = [row.whole for row in rows], [row.label for row in rows]
    with progress("comparing", len(measured), "rows") as told:
        found = nearest_neighbours(
            texts, labels, [row.whole for row in measured], k=k, seed=seed, processes=processes, told=told
        )
    votes = [vote(nearest) for nearest in found]
    optimistic = sum(row.label in tied for row, (_, tied) in zip(measured, votes, strict=True)) / len(measured)
    return {
        "neighbours": k,
        **scores([row.label for row in measured], [label for label, _ in votes]),
        "accuracy_if_ties_were_right": optimistic,
        "ties": sum(len(tied) > 1 for _, tied in votes),
    }


def _corpora(train: str, test: str | None, split: str | None, field: str) -> tuple[Corpus, Corpus | None]:
    """The corpus to learn from, and what is measured on, if anything."""
    corpus = open_corpus(train, field=field)
    if split is not None:
        return split_documents(corpus, split)
    return corpus, None if test is None else open_corpus(test, field=field)


def _measured(model: NGram | FiniteState, symbols: Symbols, corpus: Corpus, whole: bool) -> dict[str, Any]:
    """How well a model predicts a corpus: bits over all bytes of its texts, or perplexity over its words and ends."""
    texts = [document.text for document in corpus]
    pieces = [symbols.encode(piece) for text in texts for piece in ([text] if whole else sentences_of(text))]
    bits = model.bits(pieces)[0] if isinstance(model, NGram) else float(model.bits(pieces).sum())
    if isinstance(symbols, Bytes):
        size = sum(len(text.encode()) for text in texts)
        return {"bits_per_byte": bits / size, "bytes": size}
    words = sum(map(len, pieces))
    unknown = sum(int((ids == 0).sum()) for ids in pieces)
    return {
        "perplexity_per_word": 2 ** (bits / (words + len(pieces))),
        "words": words,
        "sentences": len(pieces),
        "unknown_words": unknown,
        "vocabulary": symbols.size,
    }


def _chain(model: NGram | FiniteState, symbols: Symbols, text: str) -> dict[str, Any]:
    """The probability of a sentence, and its factors: that of each symbol given those before it, and of the end."""
    ids = symbols.encode(text)
    factors = model.chain(ids).tolist()
    names = [*(symbols.spelt(number) for number in ids.tolist()), "end"]
    return {
        "sentence": text,
        "log2_probability": sum(map(math.log2, factors)),
        "factors": [{"symbol": name, "probability": factor} for name, factor in zip(names, factors, strict=True)],
    }


def _with_grammar(
    path: Path, test: str | None, asked: Sequence[str], sample: int, rng: np.random.Generator
) -> dict[str, Any]:
    """What a grammar makes of sentences; those without a tree have no probability to average."""
    grammar = read_grammar(read_text(path, "the grammar"), str(path))
    result: dict[str, Any] = {"symbols": len(grammar.rules), "rules": sum(map(len, grammar.rules.values()))}
    if test is not None:
        sentences = [line for line in sentences_of(read_text(Path(test), "the sentences")) if line.strip()]
        if not sentences:
            raise UserError(f"{test}: there is no sentence in it")
        with progress("parsing", len(sentences), "sentences") as told:
            found = []
            for line in sentences:
                found.append(grammar.probability(line.split()))
                told(1)
        parsed = [(line, p) for line, p in zip(sentences, found, strict=True) if p > 0]
        whole, bits = len(parsed) == len(sentences), -sum(math.log2(p) for _, p in parsed)
        size = sum(len(line.encode()) + 1 for line in sentences)
        symbols = sum(len(line.split()) + 1 for line in sentences)
        result |= {
            "sentences": len(sentences),
            "parsed": len(parsed),
            "bits_per_byte": bits / size if whole else None,
            "perplexity_per_word": 2 ** (bits / symbols) if whole else None,
        }
    said = []
    for text in asked:
        probability = grammar.probability(text.split())
        said.append({"sentence": text, "log2_probability": math.log2(probability) if probability else None})
    return result | _said([" ".join(grammar.sample(rng)) for _ in range(sample)], said)


def _said(samples: Sequence[str], sentences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**({"samples": samples} if samples else {}), **({"asked": sentences} if sentences else {})}


def _print(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for name, value in result.items():
        if not isinstance(value, list):
            shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            print(f"{name.replace('_', ' '):28}{shown}")
    for text in result.get("samples", ()):
        print(text)
    for asked in result.get("asked", ()):
        bits = asked["log2_probability"]
        print(f"P({asked['sentence']}) = " + ("0" if bits is None else f"{2**bits:.4g}, 2 to the power of {bits:.2f}"))
        for factor in asked.get("factors", ()):
            print(f"  {factor['probability']:.6f}  {factor['symbol']}")
