"""langwright label: a page on which people write demonstrations, and rank and judge what models answered."""

import os
from functools import partial
from pathlib import Path
from typing import Any

from langwright.base.console import print_json, say
from langwright.base.errors import UserError, check_flag
from langwright.base.files import LOCK, folder_lock, refuse_file, write_atomic, write_json
from langwright.commands._door import caller_keys
from langwright.corpora.judgements import LABELS, Judgements, json_lines, training_files
from langwright.corpora.labelling import Ask, open_items, sorted_out
from langwright.evaluation.people import report

REPORT = "report.json"
WORDS = {"rank": "to rank", "thumbs": "to call good or bad", "write": "to write"}


def label(
    data: str,
    out: Path,
    port: int = 8001,
    host: str = "127.0.0.1",
    api_key: tuple[str, ...] = (),
    ask: Ask | None = None,
    overlap: int = 1,
    seed: int = 0,
    resamples: int = 1000,
    export: bool = False,
    json: bool = False,
) -> None:
    """Let people write demonstrations and captions, and rank and judge answers, on a page in the browser.

    Answers are shown without the names of their models, in random order. What is said is on disk at once, in
    OUT/labels.jsonl; the same command goes on where it was. At its end it writes the files that trainers take.

    Args:
        data: rows with `prompt` and `answers` (a list, or an object with an answer for each model), conversations, or
            prompts alone; a folder of pictures, sounds or videos; or small=a.jsonl,large=b.jsonl, the answers of
            several models to the same prompts, as `generate --out` writes them.
        out: the folder of labels, of the files for trainers, and of report.json.
        port: where the page is; 0 is any that is free.
        host: the address; another than this machine's own needs a key.
        api_key: what labellers must enter, several for several; LANGWRIGHT_API_KEY in the environment is one too.
        ask: rank, thumbs (good or bad) or write; unless given, rank where there are several answers, thumbs where there
            is one, write where there is none.
        overlap: how many people label each item; agreement is measured where it is 2 or more.
        seed: of the order in which answers are shown; each line of labels holds the order.
        resamples: bootstrap samples of the intervals of the models' scores.
        export: write the files and the report from the labels that are there, without a page.
        json: print the report as JSON.
    """
    check_flag("overlap", overlap, overlap >= 1, "at least 1")
    check_flag("resamples", resamples, resamples >= 1, "at least 1")
    keys = [] if export else caller_keys("langwright label", port, host, api_key)
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise UserError(f"{out}: lies in {data}, whose files are to be labelled; choose a folder outside")
    items = open_items(data)
    asked = sorted_out(items, ask)
    if not asked:
        told = "no row has answers that differ" if ask is None else f"no row has enough answers for --ask {ask}"
        raise UserError(f"{data}: {told}")
    if out.is_dir() and not (out / LABELS).exists() and set(os.listdir(out)) - {LOCK}:
        raise UserError(f"{out}: holds other files, and no {LABELS}; choose another folder")
    if export and not out.is_dir():
        raise UserError(f"{out}: no such folder of labels; label first, without --export")
    refuse_file(out)
    with folder_lock(out, "a labelling page"):
        judgements = Judgements(out)
        if not export:
            kinds = [kind for _, kind in asked.values()]
            counts = [f"{kinds.count(kind):,} {words}" for kind, words in WORDS.items() if kind in kinds]
            left = len(items) - len(asked)
            say(", ".join([*counts, *([f"{left:,} left out: too few answers that differ"] if left else [])]))
            from langwright.serving.labelling import Labelling
            from langwright.serving.process import listen, serve

            numbers = partial(report, resamples=resamples)
            page = Labelling(asked, judgements, numbers, overlap=overlap, seed=seed, keys=keys)
            with listen(host, port) as bound:
                serve(page, bound, lambda: None, lambda url: print(f"listening on {url}", flush=True), 5.0)
        _finish(out, judgements, resamples, json)


def _finish(out: Path, judgements: Judgements, resamples: int, as_json: bool) -> None:
    """Write the files for trainers and the report, and tell it."""
    numbers = report(judgements, resamples)
    files = training_files(judgements)
    for name, rows in files.items():
        if rows:
            write_atomic(out / name, json_lines(rows))
        else:
            (out / name).unlink(missing_ok=True)  # of labels that were changed since
    write_json(out / REPORT, numbers)
    if as_json:
        print_json(numbers)
        return
    for line in _told(numbers):
        print(line, flush=True)
    written = [f"{name} {len(rows):,}" for name, rows in files.items() if rows]
    say(f"{out}: {', '.join(written) or 'nothing was labelled yet'}")


def _told(numbers: dict[str, Any]) -> list[str]:
    """The report in lines."""
    lines = []
    for one in numbers["labellers"]:
        pace = _or_none(one["seconds"], ".1f")
        lines.append(f"{one['labeller']}: {one['labelled']:,} labelled, {one['skipped']:,} skipped, {pace} s each")
    for kind in ("rank", "thumbs"):
        found = numbers[kind]
        if found["units"]:
            name = {"cohen": "Cohen's", "fleiss": "Fleiss'"}[found["statistic"]]
            lines.append(f"{kind}: {name} kappa {_or_none(found['kappa'], '.3f')} over {found['units']:,} units")
    for one in numbers["scores"]["models"]:
        ends = "" if one["interval"] is None else " ({:+.2f} to {:+.2f})".format(*one["interval"])
        often = f"preferred in {one['win_rate']:.0%} of {one['comparisons']:,} comparisons"
        lines.append(f"{one['model']}: score {one['score']:+.2f}{ends}, {often}")
    lines += [f"{one['model']}: {one['good']:.0%} of {one['answers']:,} answers good" for one in numbers["good"]]
    return lines


def _or_none(value: float | None, form: str) -> str:
    return "none" if value is None else f"{value:{form}}"
