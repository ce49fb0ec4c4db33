"""report.html of a model folder, from its metrics and its record."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from langwright.base.console import format_amount, format_seconds
from langwright.base.files import read_json, write_atomic
from langwright.models.folder import RECORD
from langwright.training.trainer import read_metrics
from langwright.viewing.report import Event, Fact, Report, Spending, report

Row = Mapping[str, Any]


def write_report(out: Path) -> None:
    """Write `out/report.html`."""
    write_atomic(out / "report.html", report(run_report(out)))


def run_report(out: Path) -> Report:
    """What a model folder's own record and metrics tell."""
    record = read_json(out / RECORD, "the record of the run")
    metrics = read_metrics(out)
    return replace(
        Report(title=out.name),
        facts=facts(record, metrics),
        metrics=metrics,
        events=events(record["events"]),
        spending=_spending(record.get("profile")),
        settings=record["recipe"],
        card=model_card(record),
    )


def _spending(profile: Row | None) -> Spending | None:
    if not profile:
        return None
    milliseconds = 1000 * profile["seconds_per_step"]
    about = f"{profile['steps']} training steps of {milliseconds:.0f} ms each, under the profiler."
    return Spending(profile["shares"], about)


def facts(record: Row, metrics: Sequence[Row]) -> list[Fact]:
    """The numbers worth seeing first."""
    speed = steady_speed(metrics)
    share = speed * record["flops_per_token"] / record["gemm_rate"]
    return [
        Fact("Bits per byte", f"{record['held_out']['bits_per_byte']:.3f}", "of held-out text"),
        Fact("Parameters", f"{record['parameters'] / 1e6:.1f} M"),
        Fact("Tokens seen", f"{record['tokens'] / 1e6:.2f} M", f"{record['epochs']:.2f} epochs"),
        Fact("Time", format_seconds(record["seconds"]), "of the whole command up to its last measurement"),
        Fact("Speed", f"{speed:,.0f} tokens/s", f"{100 * share:.0f} % of the machine's GEMM rate"),
    ]


def steady_speed(metrics: Sequence[Row]) -> float:
    """Tokens a second in training, the median of the logged rows."""
    speeds = sorted(row["tokens_per_second"] for row in metrics if row.get("tokens_per_second"))
    return float(speeds[len(speeds) // 2]) if speeds else 0.0


def events(history: Sequence[Row]) -> list[Event]:
    """The run's events in words; that a budget's step count followed the clock is no news."""
    return [Event(e["step"], e["event"], _detail(e)) for e in history if e["event"] != "re-planned"]


def _detail(event: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("step", "event"))


def model_card(record: Row) -> dict[str, str]:
    """What someone who is handed the model should know."""
    corpus = record["corpus"]
    chats = corpus.get("kind") == "chats"
    what = "conversations" if chats else "documents"
    size = f"{corpus['documents']:,} {what}, {format_amount(corpus['bytes'], 'bytes')}"
    about = {
        "Made by": f"langwright {record['command']}",
        "Trained on": f"{corpus['name']}, {size}, SHA-256 {corpus['hash'][:16]}…",
        "Held out": f"{corpus['split']}, {record['held_out']['bytes']:,} bytes",
        "Machine": record["machine"],
        "Computed in": f"{record['dtype']}, saved in float32, torch {record['torch']}",
        "Context": f"{record['context']} tokens",
        "Meant for": (
            "answering in the manner of the conversations it was tuned on; what it says may be wrong"
            if chats
            else "continuing text like that it was trained on; it knows nothing else and errs fluently"
        ),
        "Licence of the text": "that of the corpus; the model may repeat parts of it word for word",
    }
    if "python" in corpus:
        about["Interpreter"] = str(corpus["python"])
    return about
