"""What people are asked about: answers of models to a prompt, prompts without an answer, pictures, sounds, videos."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

from langwright.base.errors import UserError
from langwright.corpora.files import find_files
from langwright.corpora.opening import named_corpora
from langwright.corpora.preferences import Asked, read_prompt
from langwright.corpora.reading import ROWS, Row, ending_of, read_rows, text_in

Ask = Literal["rank", "thumbs", "write"]
"""To order answers, to call each good or bad, or to write one."""

MEDIA: Mapping[str, Mapping[str, str]] = {
    "image": {
        ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
        ".avif": "image/avif", ".bmp": "image/bmp",
    },
    "audio": {
        ".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac", ".ogg": "audio/ogg", ".oga": "audio/ogg",
        ".opus": "audio/ogg", ".m4a": "audio/mp4",
    },
    "video": {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".ogv": "video/ogg"},
}  # fmt: skip
"""The fields that name files, and the endings of these with their types for a browser. An SVG may hold a program, and
is none of them."""
ENDINGS = {ending: kind for kind, types in MEDIA.items() for ending in types}
MOST_ANSWERS = 16
"""That one person can compare, each under a letter."""


@final
@dataclass(frozen=True)
class Medium:
    """A picture, a sound or a video.

    Args:
        kind: image, audio or video.
        name: as the row spells it.
        path: where it lies.
        files: what is shown: the same; of a video that is a folder its frames, in the order of their names.
    """

    kind: str
    name: str
    path: Path
    files: tuple[Path, ...]


@final
@dataclass(frozen=True)
class Item:
    """One thing to label.

    Args:
        prompt: a text or messages; empty where only a picture, sound or video is asked about.
        answers: each once, though several models may have given it.
        models: the names of those who gave each answer; none where a row does not say.
        given: how many answers there were, equal ones among them.
        media: what is shown beside.
        source: the file and the row.
    """

    prompt: Asked
    answers: tuple[str, ...] = ()
    models: tuple[tuple[str, ...], ...] = ()
    given: int = 0
    media: tuple[Medium, ...] = ()
    source: str = ""

    @cached_property
    def id(self) -> str:
        """The same for the same content, wherever it stands: what is labelled stays so when rows come and go."""
        content = [self.prompt, self.answers, [(medium.kind, medium.name) for medium in self.media]]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()

    @property
    def usual(self) -> Ask:
        """What is asked of it unless something else is."""
        return "rank" if self.given > 1 else "thumbs" if self.given else "write"


def open_items(spec: str) -> list[Item]:
    """Read what there is to label, each thing once.

    Args:
        spec: files of rows, a folder or a glob; where there are pictures, sounds or videos among its files, these are
            the items. Or several files of rows, such as small=a.jsonl,large=b.jsonl: the answers of several models, by
            name, to the same prompts.

    Returns:
        The items in the order of the files.

    Raises:
        UserError: Names file and row of what cannot be read.
    """
    named = named_corpora(spec)
    if named:
        items = _joined(named)
    else:
        files = find_files(spec, (*ROWS, *ENDINGS))
        media = [file for file in files if file.suffix.lower() in ENDINGS]
        root = Path(spec).expanduser()
        if media:
            items = [_shown(file, root if root.is_dir() else file.parent) for file in media]
        else:
            items = [_read_item(row, file.parent) for file in files for row in read_rows(file, None)]
    found = {item.id: item for item in reversed(items)}
    if not found:
        raise UserError(f"{spec}: there is nothing to label in it")
    return list(reversed(found.values()))


def _shown(file: Path, folder: Path) -> Item:
    """A picture, sound or video of a folder as an item."""
    name, kind = file.relative_to(folder).as_posix(), ENDINGS[file.suffix.lower()]
    return Item("", media=(_medium(kind, name, folder, str(file)),), source=str(file))


def _joined(named: Mapping[str, str]) -> list[Item]:
    """The answers of several models to each prompt that two or more of them have answered."""
    prompts: dict[str, tuple[Item, dict[str, str]]] = {}
    for name, spec in named.items():
        for file in find_files(spec, ROWS):
            for row in read_rows(file, None):
                item = _read_item(row, file.parent)
                if len(item.answers) != 1:
                    raise UserError(f"{row.source}: must hold one answer, that of {name}, and has {len(item.answers)}")
                prompt = Item(item.prompt, media=item.media, source=row.source)
                prompts.setdefault(prompt.id, (prompt, {}))[1].setdefault(name, item.answers[0])
    joined = [(item, answers) for item, answers in prompts.values() if len(answers) > 1]
    if not joined:
        raise UserError(f"{', '.join(named.values())}: no prompt is in two of these files")
    return [Item(item.prompt, *_merged(answers.items()), item.media, item.source) for item, answers in joined]


def _merged(answers: Collection[tuple[str, str]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], int]:
    """The answers of (model, answer), each once, who gave each, and how many there were."""
    found: dict[str, list[str]] = {}
    for model, text in answers:
        found.setdefault(text, []).extend([model] if model else [])
    return tuple(found), tuple(tuple(models) for models in found.values()), len(answers)


def _read_item(row: Row, folder: Path) -> Item:
    """Read a row: a prompt or a conversation; `answers`, or one answer; and what is shown beside."""
    where, values = row.source, {name: value for name, value in row.values.items() if value is not None}
    media = tuple(_medium(kind, values.pop(kind), folder, where) for kind in MEDIA if kind in values)
    given = _parsed(values.pop("answers", None))
    if isinstance(given, dict):
        named = list(given.items())
    elif isinstance(given, list | None):
        named = [("", answer) for answer in given or []]
    else:
        raise UserError(f'{where}: "answers" must be a list of texts, or an object with a text for each model')
    texts = [(model, text_in(answer, "answers", where)) for model, answer in named]
    if len(texts) > MOST_ANSWERS:
        raise UserError(f'{where}: "answers" are {len(texts)}; a person can compare {MOST_ANSWERS} at most')
    if given is None and "text" in values and ("prompt" in values or media):
        texts = [("", text_in(values.pop("text"), "text", where))]  # as `generate --out` writes it
    if media and not {"prompt", "messages", "conversations", "instruction"} & values.keys():
        return Item("", *_merged(texts), media, where)
    asked = read_prompt(Row(values, where))
    if given is None and not texts and asked.answer is not None:
        texts = [("", asked.answer)]
    return Item(asked.prompt, *_merged(texts), media, where)


def _parsed(value: Any) -> Any:
    """A list or an object, which the cell of a table holds as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
    except ValueError:
        return value


def _medium(kind: str, name: Any, folder: Path, where: str) -> Medium:
    """A file that a row names, in the folder of the row's file; a video may be a folder of pictures, its frames."""
    text = text_in(name, kind, where)
    path = folder / text
    if not text or "\0" in text or Path(text).is_absolute() or not inside(path, folder):
        raise UserError(f'{where}: "{kind}" is {text!r}, which is no name inside the folder {folder}')
    if kind == "video" and path.is_dir():
        pictures = (file for file in path.iterdir() if file.suffix.lower() in MEDIA["image"])
        frames = sorted(file for file in pictures if inside(file, folder))
        if not frames:
            raise UserError(f'{where}: "video" is the folder {path}, and there are no pictures in it')
        return Medium(kind, text, path, tuple(frames))
    if ending_of(path) not in MEDIA[kind]:
        raise UserError(f'{where}: "{kind}" is {text!r}, which ends in none of {", ".join(MEDIA[kind])}')
    if not path.is_file():
        raise UserError(f"{where}: {path}: no such file")
    return Medium(kind, text, path, (path,))


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, with its links followed, is inside a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def sorted_out(items: Sequence[Item], ask: Ask | None) -> dict[str, tuple[Item, Ask]]:
    """What is asked of each item, by its id. Items of which it cannot be asked are left out: none is ranked whose
    answers are all equal.

    Args:
        items: what there is.
        ask: what to ask of each; by default what is usual for it.
    """
    needed = {"rank": 2, "thumbs": 1, "write": 0}
    return {item.id: (item, ask or item.usual) for item in items if len(item.answers) >= needed[ask or item.usual]}
