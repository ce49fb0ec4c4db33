"""Rows of benchmarks: commands that are run once, and go on where they were stopped."""

import argparse
import gzip
import json
import lzma
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One model and what it scores.

    Args:
        name: TABLE/MODEL, or TABLE/MODEL/SEED for rows of which the table has the mean.
        commands: run one after the other, {data} and {work} being the folders; the last prints one JSON object.
        needs: rows that come first.
    """

    name: str
    commands: tuple[str, ...]
    needs: tuple[str, ...] = ()


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a packed file of JSON lines."""
    with (lzma if path.suffix == ".xz" else gzip).open(path, "rt") as file:
        return [json.loads(line) for line in file]


def run(row: Row, work: Path, fill: Callable[[str], str], environment: Mapping[str, str]) -> dict[str, object] | None:
    """The scores of a row, run if it is not finished; None where a command failed."""
    told = work / "results" / f"{row.name.replace('/', '__')}.json"
    if told.exists():
        found: dict[str, object] = json.loads(told.read_text())
        return found
    began = time.monotonic()
    for command in row.commands:
        words = [sys.executable, "-m", "langwright", *shlex.split(fill(command))]
        print(f"{row.name}: {shlex.join(words[2:])}", file=sys.stderr, flush=True)
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, env=environment)
        if done.returncode:
            print(f"{row.name}: ended with {done.returncode}", file=sys.stderr)
            return None
    scores = json.loads(done.stdout)
    told.parent.mkdir(exist_ok=True)
    told.write_text(json.dumps({**scores, "seconds": round(time.monotonic() - began)}))
    return run(row, work, fill, environment)


def main(
    doc: str,
    known: Mapping[str, Row],
    work: Path,
    *,
    prepare: Callable[[Path, Path], None],
    tables: Callable[[Path, Path | None], Iterable[str]],
    threads: str | None = None,
) -> None:
    """The command line of a benchmark: run what is asked for, and print what it scored.

    Args:
        doc: what it is for.
        known: all rows by name.
        work: where models and scores go unless something else is asked for.
        prepare: makes files of the sets, given the folders of the sets and of the work.
        tables: what is finished, as Markdown, given the folder of the work, and that of the sets where it is named.
        threads: of each command; as the environment says unless given.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("LANGWRIGHT_DATA"))
    parser.add_argument("--work", type=Path, default=work)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("rows", nargs="*")
    asked = parser.parse_args()
    chosen = list(dict.fromkeys(name for begin in asked.rows or [""] for name in known if name.startswith(begin)))
    if asked.list:
        print("\n".join(f"{name}\n    " + "\n    ".join(known[name].commands) for name in chosen))
        return
    data = None if asked.data is None else Path(asked.data)
    if asked.table:
        print("\n".join(tables(asked.work, data)))
        return
    if data is None:
        parser.error("name the folder of the data sets with --data, or in LANGWRIGHT_DATA")
    prepare(data, asked.work)
    wanted = dict.fromkeys(need for name in chosen for need in (*known[name].needs, name))
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"} | ({"OMP_NUM_THREADS": threads} if threads else {})
    for name in wanted:
        scores = run(known[name], asked.work, lambda text: text.format(data=data, work=asked.work), environment)
        print(name, json.dumps(scores), flush=True)
