"""langwright prepare: conversations cleaned, chosen and varied before a model is tuned on them."""

import json as json_
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from langwright.base.console import print_json, say
from langwright.base.errors import UserError, check_flag
from langwright.base.files import write_atomic
from langwright.corpora.augmentation import augmented, changes_named
from langwright.corpora.cleaning import exact_duplicates, faults, heuristic_score, near_duplicates, words
from langwright.corpora.conversations import Chat, open_chats

By = Literal["heuristics", "relevance", "difficulty"]
SHOWN = 3


def prepare(
    data: str,
    out: Path,
    deduplicate: bool = False,
    near: float | None = None,
    check: bool = False,
    min_words: int | None = None,
    max_words: int | None = None,
    max_tokens: int | None = None,
    keep: float | None = None,
    by: By = "heuristics",
    model: Path | None = None,
    template: str | None = None,
    augment: tuple[str, ...] = (),
    seed: int = 0,
    json: bool = False,
) -> None:
    """Clean, choose and vary conversations, and write them as messages, one JSON object a line.

    Args:
        data: a file, folder or glob of conversations in any format that finetune --task chat reads.
        out: the new .jsonl file.
        deduplicate: drop conversations that equal an earlier one.
        near: drop those this similar to an earlier one or more: the share of runs of three words or signs that they
            share.
        check: drop those with a fault: empty answers, answers that repeat the question, turns out of order, special
            tokens.
        min_words: drop those whose answers have fewer words together.
        max_words: drop those whose answers have more.
        max_tokens: drop those that have more tokens than this with the template of --model.
        keep: keep this share, the best by the score of --by.
        by: heuristics (how varied and long answers are), relevance (how much the question helps --model to the answer),
            or difficulty (how little, as long as it does help).
        model: the folder of the model that counts tokens and scores.
        template: the chat template for that, unless it is the model's own.
        augment: add a copy of each with other words in the user's messages: synonyms, deletion, swap, typos.
        seed: of all that is drawn.
        json: print the counts as JSON.
    """
    _refuse(out, near, keep, by, model, max_tokens)
    scored = max_tokens is not None or by != "heuristics"
    if model is not None and not (scored or check):
        raise UserError(f"--model {model}: goes with --max-tokens, --by or --check")
    if template is not None and not scored:
        raise UserError(f"--template {template}: goes with --max-tokens or --by")
    for name, count in (("min_words", min_words), ("max_words", max_words), ("max_tokens", max_tokens)):
        check_flag(name, count, count is None or count >= 1, "at least 1")
    if min_words is not None and max_words is not None:
        check_flag("max_words", max_words, max_words >= min_words, f"at least --min-words, which is {min_words}")
    check_flag("seed", seed, seed >= 0, "0 or more")
    changes = changes_named(augment)
    chats = list(open_chats(data).items)
    report: dict[str, int] = {"read": len(chats)}

    def drop(numbers: Iterable[int], why: str) -> None:
        """Leave some out; how many is reported, the first few by name."""
        gone = dict.fromkeys(sorted(numbers))
        report[f"dropped: {why}"] = len(gone)
        if gone:
            first = ", ".join(chats[i].source for i in list(gone)[:SHOWN])
            say(f"{len(gone):,} {why}: {first}{' ...' if len(gone) > SHOWN else ''}")
        chats[:] = [chat for i, chat in enumerate(chats) if i not in gone]

    if deduplicate:
        drop(exact_duplicates([chat.key for chat in chats]), "equal to an earlier one")
    if check:
        drop(_faulty(chats, model), "a fault")
    if min_words is not None:
        drop((i for i, chat in enumerate(chats) if len(words(chat.answer)) < min_words), "too short")
    if max_words is not None:
        drop((i for i, chat in enumerate(chats) if len(words(chat.answer)) > max_words), "too long")
    if near is not None:
        drop(
            near_duplicates([f"{chat.prompt}\n{chat.answer}" for chat in chats], near), "nearly equal to an earlier one"
        )
    if model is not None and scored:
        from langwright.evaluation.relevance import Scorer

        scorer = Scorer(model, template)
        if max_tokens is not None:
            sizes = scorer.tokens(chats)
            drop((i for i, size in enumerate(sizes) if size > max_tokens), "more tokens than --max-tokens")
    if keep is not None:
        scores = [heuristic_score(chat) for chat in chats] if by == "heuristics" else scorer.scores(chats, by)
        best = sorted(range(len(chats)), key=lambda i: -scores[i])
        drop(best[max(1, round(keep * len(chats))) :], f"a lower score by {by}")
    if not chats:
        raise UserError(f"{data}: nothing is left to write ({', '.join(f'{n} {what}' for what, n in report.items())})")
    varied = [made for name in changes for i, chat in enumerate(chats) if (made := augmented(chat, name, seed, i))]
    if changes:
        report[f"added by {', '.join(changes)}"] = len(varied)
    rows = [chat.record() for chat in [*chats, *varied]]
    write_atomic(out, "".join(json_.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    report["written"] = len(rows)
    if json:
        print_json(report)
    else:
        for what, count in report.items():
            print(f"{count:9,}  {what}")
    say(f"wrote {out}")


def _refuse(
    out: Path, near: float | None, keep: float | None, by: By, model: Path | None, max_tokens: int | None
) -> None:
    """Settings that make no sense, before anything is read."""
    if out.suffix != ".jsonl":
        raise UserError(f"{out}: the new file must end in .jsonl")
    if out.exists():
        raise UserError(f"{out}: exists already; choose another name, or remove it first")
    for name, share in (("near", near), ("keep", keep)):
        check_flag(name, share, share is None or 0 < share <= 1, "above 0 and at most 1")
    if by != "heuristics" and keep is None:
        raise UserError(f"--by {by}: goes with --keep, the share to keep")
    if model is None and (max_tokens is not None or by != "heuristics"):
        raise UserError(f"--{'max-tokens' if max_tokens is not None else f'by {by}'}: needs --model, a model's folder")


def _faulty(chats: Sequence[Chat], model: Path | None) -> list[int]:
    """The numbers of those with a fault; how many have which is told."""
    from langwright.text.chat_template import TEMPLATES
    from langwright.text.opening import load_tokenizer

    specials = {token for tokens in TEMPLATES.values() for token in tokens}
    if model is not None:
        specials.update(load_tokenizer(model).specials)
    found = [faults(chat, sorted(specials)) for chat in chats]
    for fault, count in Counter(fault for one in found for fault in one).most_common():
        say(f"{count:,} with: {fault}")
    return [i for i, one in enumerate(found) if one]
