"""A file of prompts made into a file of texts: stopped anywhere, it goes on there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from langwright.base.console import progress, say
from langwright.base.errors import UserError
from langwright.base.files import atomic_file, refuse_file
from langwright.corpora.reading import document_of, read_rows
from langwright.inference.engine import Engine
from langwright.inference.request import Completion, Request

BEGUN = ".part"
"""The ending of the file that holds what is written so far: a line of settings, then rows as they were finished."""


def read_prompts(path: Path) -> list[tuple[str, str]]:
    """The prompts of a file, and where each stands: the field `prompt` of its rows."""
    rows = [document_of(row, "prompt") for row in read_rows(path, ("prompt",))]
    if not rows:
        raise UserError(f"{path}: holds no prompts")
    return [(row.text, row.source) for row in rows]


def complete_file(engine: Engine, prompts: Path, out: Path, asked: Request, settings: Mapping[str, Any]) -> int:
    """Continue the prompts of a file, and write one JSON object for each, in their order.

    What is finished is kept beside `out` at once, and is not written again when this is called again.

    Args:
        engine: what writes; `prompt` of `asked` is replaced by each of the file.
        prompts: rows with a field `prompt`.
        out: the file to write.
        asked: how each prompt is continued.
        settings: what else decides the texts, by name.

    Returns:
        How many ended with an error. Where `out` is finished already, nothing is written.

    Raises:
        UserError: A prompt does not fit, or what was begun had other prompts or settings.
    """
    rows = read_prompts(prompts)
    digest = hashlib.sha256(json.dumps([text for text, _ in rows]).encode()).hexdigest()
    if out.exists():
        written = [dict(row.values) for row in read_rows(out, None)]
        if [row.get("prompt") for row in written] != [text for text, _ in rows]:
            raise UserError(f"{prompts}: {out} holds the texts of other prompts; remove it, or choose another name")
        say(f"{out}: is finished already; remove it to write it again, with these settings or others")
        return sum(row.get("reason") == "error" for row in written)
    refuse_file(out.parent)
    begun, settings = out.with_name(out.name + BEGUN), {"prompts": digest, **settings}
    done, good = _read_begun(begun, prompts, settings)
    waiting = {}
    for number, (text, where) in enumerate(rows):
        if number not in done:
            try:
                waiting[number] = engine.add(replace(asked, prompt=text))
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    if done:
        say(f"{begun}: goes on after {len(done):,} of {len(rows):,} texts")
    out.parent.mkdir(parents=True, exist_ok=True)
    begun.touch()
    with begun.open("r+b") as file, progress("writing", len(rows), "texts") as advance:
        file.truncate(good)
        file.seek(good)
        if not good:
            _append(file, settings)
        advance(len(done))
        while waiting:
            engine.step()
            for number in [number for number, handle in waiting.items() if handle.done]:
                done[number] = _row(rows[number][0], waiting.pop(number).completions[0])
                _append(file, {"row": number, **done[number]})
                advance(1)
    with atomic_file(out) as whole:
        lines = (json.dumps(done[number], ensure_ascii=False) for number in range(len(rows)))
        whole.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    begun.unlink()
    say(f"wrote {out}")
    return sum(row["reason"] == "error" for row in done.values())


def _row(prompt: str, written: Completion) -> dict[str, Any]:
    row = {"prompt": prompt, "text": written.text, "tokens": written.ids, "reason": written.reason}
    return row if written.error is None else {**row, "error": written.error}


def _append(file: BinaryIO, value: Any) -> None:
    file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    file.flush()


def _read_begun(path: Path, prompts: Path, settings: Mapping[str, Any]) -> tuple[dict[int, dict[str, Any]], int]:
    """The rows of what was begun, and its bytes up to a last line that was cut off."""
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
    return found, sum(map(len, whole))
