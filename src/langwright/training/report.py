"""report.html of a model folder, from its metrics and its record."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from langwright.base.console import format_amount, format_seconds
from langwright.base.files import read_json, write_atomic
from langwright.models.folder import RECORD
from langwright.viewing.charts import Axes, Bar, Series, bars, line_chart
from langwright.viewing.curves import curves
from langwright.viewing.page import Html, Section, definitions, page, table
from langwright.viewing.report import confusion, examples, facts, label_scores
from langwright.viewing.text import event_words, percent

Row = Mapping[str, Any]
OVERLINE = "Langwright training report"


def write_report(out: Path) -> None:
    """Write `out/report.html`."""
    top, sections = run_report(out)
    write_atomic(out / "report.html", page(out.name, sections, overline=OVERLINE, top=top))


def run_report(out: Path) -> tuple[Html, list[Section]]:
    """What a model folder's own record and metrics tell: the numbers worth seeing first, and sections."""
    record = read_json(out / RECORD, "the record of the run")
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    recipe = {name: "none" if value is None else str(value) for name, value in record["recipe"].items()}
    return _facts(record, metrics), [
        Section("learning", "Learning", curves(metrics) + _events(record["events"])),
        _mistakes(record),
        _answers(record.get("answers")),
        _trust(record.get("reward_model")),
        _spending(record.get("profile")),
        Section("recipe", "Recipe", definitions(recipe.items())),
        Section("card", "Model card", definitions(model_card(record).items())),
    ]


def _mistakes(record: Row) -> Section:
    """What a task's model does not get right on held-out rows."""
    details, parts = record.get("details") or {}, []
    if "confusion" in details:
        parts.append(confusion(record["task"]["labels"], details["confusion"]))
    if "by_label" in details:
        parts.append(label_scores(details["by_label"]))
    if "by_subject" in details:
        each = [Bar(name, row["accuracy"], f"{row['rows']:,} windows") for name, row in details["by_subject"].items()]
        parts.append(bars(each, ("Subject", "Accuracy", ""), percent))
    for name, title in (("errors", "Examples of errors"), ("examples", "Examples")):
        if details.get(name):
            parts.append(examples(details[name], title))
    about = f"On {record['held_out']['rows']:,} held-out rows, of the weights that are kept." if parts else ""
    return Section("errors", "Right and wrong", Html("").join(parts), about)


def _answers(rows: Sequence[Row] | None) -> Section:
    """What a policy answered before and after it learnt."""
    if not rows:
        return Section("answers", "", Html(""))
    about = (
        "Held-out prompts, answered by the model that the run began with and by the one that it made, by equal draws."
    )
    return Section("answers", "Before and after", examples(rows, "Answers"), about)


def _trust(report: Row | None) -> Section:
    """How far the scores of a reward model can be trusted."""
    if not report:
        return Section("trust", "", Html(""))
    low, high = report["interval"]
    longer = "longer" if report["longer_is_better"] else "shorter"
    told = {
        "Pairs in order": f"{report['accuracy']:.1%}, 95 % of bootstrap samples from {low:.1%} to {high:.1%}",
        f"Pairs whose {longer} answer is the better one": f"{report['length_accuracy']:.1%}",
        "Rank correlation of score and length": f"{report['length_correlation']:.2f}",
    }
    chances, rights = zip(*((row["chance"], row["right"]) for row in report["calibration"]), strict=True)
    lines = [
        Series("of equal numbers of pairs", chances, rights, "points"),
        Series("exact", (0.5, 1), (0.5, 1), "faint"),
    ]
    chart = line_chart(lines, Axes("the chance that the model gives its choice", "How often it is right", height=300))
    about = "On held-out answers. Below the thin line, the model is surer than it should be."
    return Section("trust", "How far its scores can be trusted", Html(definitions(told.items()) + chart), about)


def _spending(profile: Row | None) -> Section:
    if not profile:
        return Section("time", "", Html(""))
    milliseconds = 1000 * profile["seconds_per_step"]
    about = f"{profile['steps']} training steps of {milliseconds:.0f} ms each, under the profiler."
    shares = [Bar(part, share) for part, share in profile["shares"].items()]
    return Section("time", "Where the time goes", bars(shares, ("Part", "Share", ""), percent), about)


def _facts(record: Row, metrics: Sequence[Row]) -> Html:
    speed = statistics.median_high(
        [row["tokens_per_second"] for row in metrics if row.get("tokens_per_second")] or [0.0]
    )
    share = speed * record["flops_per_token"] / record["gemm_rate"]
    return facts(
        [
            _measure(record["held_out"]),
            ("Parameters", f"{record['parameters'] / 1e6:.1f} M", ""),
            ("Tokens seen", f"{record['tokens'] / 1e6:.2f} M", f"{record['epochs']:.2f} epochs"),
            ("Time", format_seconds(record["seconds"]), "of the whole command up to its last measurement"),
            ("Speed", f"{speed:,.0f} tokens/s", f"{100 * share:.0f} % of the machine's GEMM rate"),
        ]
    )


def _measure(held_out: Row) -> tuple[str, str, str]:
    """The measure of a task; bits per byte where every byte is predicted; else the loss."""
    if "rows" in held_out:
        name = next(name for name in held_out if name != "loss")
        return name.replace("_", " ").capitalize(), f"{held_out[name]:.3f}", f"of {held_out['rows']:,} held-out rows"
    if "bits_per_byte" in held_out:
        return "Bits per byte", f"{held_out['bits_per_byte']:.3f}", "of held-out text"
    return "Loss", f"{held_out['loss_nats_per_token']:.3f}", "nats per predicted token of held-out text"


def _amount(held_out: Row) -> str:
    return f"{held_out['rows']:,} rows" if "rows" in held_out else f"{held_out['tokens']:,} predicted tokens"


def _events(history: Sequence[Row]) -> Html:
    """The run's events in words; that a budget's step count followed the clock is no news."""
    rows = []
    for event in history:
        if event["event"] != "re-planned":
            rows.append((f"{event['step']:,}", event["event"], event_words(event)))
    return table(("Step", "Event", "What happened"), rows, numeric=["Step"], title="Events") if rows else Html("")


def model_card(record: Row) -> dict[str, str]:
    """What someone who is handed the model should know."""
    corpus = record["corpus"]
    kind = corpus.get("kind")
    chats, rows, preferred = kind == "chats", kind == "rows", kind == "preferences"
    what = "conversations" if chats else "rows" if rows or preferred else "documents"
    size = f"{corpus['documents']:,} {what}, {format_amount(corpus['bytes'], 'bytes')}"
    about = {
        "Made by": f"langwright {record['command']}",
        "Trained on": f"{corpus['name']}, {size}, SHA-256 {corpus['hash'][:16]}…",
        "Held out": f"{corpus['split']}, {_amount(record['held_out'])}",
        "Machine": record["machine"],
        "Computed in": f"{record['dtype']}, saved in float32, torch {record['torch']}",
        "Context": f"{record['context']} tokens",
        "Meant for": (
            "answering in the manner of the conversations it was tuned on; what it says may be wrong"
            if chats
            else f"the task {record['task']['name']} on rows like those it was tuned on; what it says may be wrong"
            if rows
            else "scoring answers like those it was trained on; a policy that is optimised for long finds its faults"
            if "reward_model" in record
            else "answering as the answers that were preferred do; what it says may be wrong"
            if preferred
            else "continuing text like that it was trained on; it knows nothing else and errs fluently"
        ),
        "Licence of the text": "that of the corpus; the model may repeat parts of it word for word",
    }
    if "python" in corpus:
        about["Interpreter"] = str(corpus["python"])
    return about
