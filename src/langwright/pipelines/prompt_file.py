"""A file of prompts made into a file of texts: stopped anywhere, it goes on there."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from langwright.base.console import progress, say
from langwright.base.errors import UserError
from langwright.base.files import atomic_file, refuse_file
from langwright.corpora.reading import document_of, read_rows
from langwright.inference.generate import engine_for
from langwright.inference.prompts import given_ids
from langwright.inference.request import Completion, Request
from langwright.inference.sinks import Streaming
from langwright.inference.speculation import Speculation
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

BEGUN = ".part"
"""The ending of the file that holds what is written so far: a line of settings, then rows as they were finished."""


def read_prompts(path: Path) -> list[tuple[str, str]]:
    """The prompts of a file, and where each stands: the field `prompt` of its rows."""
    rows = [document_of(row, "prompt") for row in read_rows(path, ("prompt",))]
    if not rows:
        raise UserError(f"{path}: holds no prompts")
    return [(row.text, row.source) for row in rows]


def complete_file(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Path,
    out: Path,
    asked: Request,
    settings: Mapping[str, Any],
    *,
    batch: int,
    streaming: Streaming | None = None,
    speculation: Speculation | None = None,
) -> int:
    """Continue the prompts of a file, and write one JSON object for each, in their order.

    What is finished is kept beside `out` at once, and is not written again when this is called again.

    Args:
        model, tokenizer, batch, streaming, speculation: as in `complete`.
        prompts: rows with a field `prompt`.
        out: the file to write.
        asked: how each prompt is continued; its own is replaced by each of the file.
        settings: what else decides the texts, by name.

    Returns:
        How many ended with an error. Where `out` is finished already, nothing is written.

    Raises:
        UserError: A prompt does not fit, what was begun had other prompts or settings, or another run writes it.
    """
    rows = read_prompts(prompts)
    digest = hashlib.sha256(json.dumps([text for text, _ in rows]).encode()).hexdigest()
    if out.exists():
        written = [dict(row.values) for row in read_rows(out, None)]
        if [row.get("prompt") for row in written] != [text for text, _ in rows]:
            raise UserError(f"{prompts}: {out} holds the texts of other prompts; remove it, or choose another name")
        say(f"{out}: is finished already; remove it to write it again, with these settings or others")
        return sum(row.get("reason") == "error" for row in written)
    requests, places = [replace(asked, prompt=text) for text, _ in rows], [where for _, where in rows]
    written = write_rows(
        model, tokenizer, requests, places, out, {"prompts": digest, **settings},
        lambda number, completions: {"prompt": rows[number][0], **completions[0].row()},
        spec=str(prompts), batch=batch, streaming=streaming, speculation=speculation,
    )  # fmt: skip
    return sum(row["reason"] == "error" for row in written)


def write_rows(
    model: Model,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    places: Sequence[str],
    out: Path,
    settings: Mapping[str, Any],
    row: Callable[[int, Sequence[Completion]], dict[str, Any]],
    *,
    spec: str,
    batch: int,
    streaming: Streaming | None = None,
    speculation: Speculation | None = None,
) -> list[dict[str, Any]]:
    """Do what is asked, and write one JSON object for each request, in their order.

    Args:
        model, tokenizer, batch, streaming, speculation: as in `complete`.
        requests: what is asked; they differ in prompt and seed alone.
        places: where the prompts stand, for errors.
        out: the file to write. What is finished is kept beside it at once, and is not asked again.
        settings: what decides the texts, by name; "prompts" identifies the prompts.
        row: makes the object, given the number of a request and its texts.
        spec: what the user calls the prompts.

    Returns:
        The objects.
    """
    refuse_file(out.parent)
    begun = out.with_name(out.name + BEGUN)
    done, good, size = _read_begun(begun, spec, settings)
    ids, waiting = {}, {}
    for number, request in enumerate(requests):
        if number not in done:
            with _at(places[number]):
                ids[number] = given_ids(model, tokenizer, request.prompt)
    engine = engine_for(
        model, tokenizer, requests[0], ids.values(),
        batch=batch, streaming=streaming, speculation=speculation,
    )  # fmt: skip
    for number, prompt in ids.items():
        with _at(places[number]):
            waiting[engine.add(replace(requests[number], prompt=prompt))] = number
    if done:
        say(f"{begun}: goes on after {len(done):,} of {len(requests):,} texts")
    out.parent.mkdir(parents=True, exist_ok=True)
    begun.touch()
    with begun.open("r+b") as file, progress("writing", len(requests), "texts") as advance:
        _lock(file, begun, size)
        file.truncate(good)
        file.seek(good)
        if not good:
            _append(file, settings)
        advance(len(done))
        while engine.busy:
            for handle in engine.step():
                if handle.done:
                    number = waiting[handle]
                    done[number] = row(number, handle.completions)
                    _append(file, {"row": number, **done[number]})
                    advance(1)
        with atomic_file(out) as whole:
            lines = (json.dumps(done[number], ensure_ascii=False) for number in range(len(requests)))
            whole.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        begun.unlink()
    say(f"wrote {out}")
    return [done[number] for number in range(len(requests))]


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Say where the prompt stands that does not fit."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _lock(file: BinaryIO, path: Path, size: int) -> None:
    """Keep other runs out until the file is closed; UserError where one has written since it was read."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        size = -1
    if not path.exists() or file.seek(0, os.SEEK_END) != size:
        raise UserError(f"{path}: another run writes it; let it finish, or choose another --out")


def _append(file: BinaryIO, value: Any) -> None:
    file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    file.flush()


def _read_begun(path: Path, prompts: str, settings: Mapping[str, Any]) -> tuple[dict[int, dict[str, Any]], int, int]:
    """The rows of what was begun, its bytes up to a last line that was cut off, and all of them."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    try:
        first, *rows = [json.loads(line) for line in whole] or [settings]
        found = {row.pop("row"): row for row in rows}
        changed = next((name for name in {**first, **settings} if first.get(name) != settings.get(name)), None)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{path}: is not what an unfinished run left; remove it to begin anew") from None
    if changed == "prompts":
        raise UserError(f"{prompts}: has changed since {path} was begun; restore it, or remove {path} to begin anew")
    if changed:
        told = f"{changed} was {first.get(changed)!r} and now is {settings.get(changed)!r}"
        raise UserError(f"{path}: was begun otherwise: {told}; finish it so, or remove it to begin anew")
    return found, sum(map(len, whole)), sum(map(len, lines))
