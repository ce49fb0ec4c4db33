"""The labelling page's routes: give an item without the names of models, take what a person says of it."""

import asyncio
import hashlib
import json
import random
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Request
from pydantic import AfterValidator, Field
from starlette.responses import FileResponse, JSONResponse, Response

from langwright.corpora.judgements import Judgement, Judgements, json_lines, training_files
from langwright.corpora.labelling import MEDIA, Ask, Item
from langwright.serving.assignment import Assignment
from langwright.serving.body import LONGEST_TEXT, Body
from langwright.serving.door import Door
from langwright.serving.errors import RequestError
from langwright.serving.page import Page
from langwright.serving.routes import application, read_body

PAGE = Page("label.html", media="data: blob:")
TYPES = {ending: kind for types in MEDIA.values() for ending, kind in types.items()}
ALONE = {
    "Content-Security-Policy": "default-src 'none'; sandbox",  # opened by itself, a file of a stranger runs nothing
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=3600",
}


def _name(value: str) -> str:
    """A person's name, spelt one way."""
    name = " ".join(unicodedata.normalize("NFC", value).split())
    if not name or not name.isprintable():
        raise ValueError("must be a name")
    return name


Labeller = Annotated[str, Field(max_length=64), AfterValidator(_name)]
Id = Annotated[str, Field(max_length=64)]


class NextBody(Body):
    """Asks for an item: the one before another that this person has labelled, or the next."""

    labeller: Labeller
    before: Id | None = None
    back: bool = False


class LabelBody(Body):
    """What a person says: marks of the answers in the order in which they were shown, or a text, or neither to skip.

    What this person has said of the item before stays as it is where it is skipped now.
    """

    labeller: Labeller
    item: Id
    shown: Id
    marks: list[Annotated[int, Field(ge=0, le=64)]] | None = None
    text: str | None = Field(None, max_length=LONGEST_TEXT)
    seconds: float = Field(0.0, ge=0, le=1e6)


class Labelling:
    """The application, and what its routes share.

    Args:
        asked: the items and what is asked of each, by id.
        judgements: what was said, and where it is kept.
        overlap: how many people label each item.
        seed: of the order in which answers are shown.
        report: the numbers that the page shows, from what was said.
        keys: of callers; none for no key.
    """

    def __init__(
        self,
        asked: Mapping[str, tuple[Item, Ask]],
        judgements: Judgements,
        report: Callable[[Sequence[Judgement]], dict[str, Any]],
        *,
        overlap: int = 1,
        seed: int = 0,
        keys: Sequence[str] = (),
    ):
        self._asked, self._judgements, self._report, self._seed = asked, judgements, report, seed
        self._assignment = Assignment(asked, overlap)
        for one in judgements:
            if self._is_asked(one):
                self._assignment.note(one.item, one.labeller, one.skipped)
        routes: dict[str, tuple[str, Any]] = {
            "/": ("GET", self._page), "/health": ("GET", self._health),
            "/next": ("POST", self._next), "/label": ("POST", self._label),
            "/media/{item}/{medium:int}/{file:int}": ("GET", self._medium),
            "/report": ("POST", self._results), "/files/{name}": ("GET", self._file),
        }  # fmt: skip
        open_paths = ("/", "/health") if keys else ("/health",)  # the page holds no data, and asks for the key
        self.app = Door(application(routes), keys, lambda path, status: None, open_paths)

    def open(self, _: Any, /) -> None:
        """Answer from now on."""
        self.app.ready = True

    def close(self) -> None:
        """End; what was said is on disk already."""

    async def _page(self, request: Request) -> Response:
        return PAGE.response()

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _next(self, request: Request) -> Response:
        body = await read_body(request, NextBody)
        if not body.back:
            return self._give(body.labeller, self._assignment.next(body.labeller))
        mine = [one.item for one in self._judgements if one.labeller == body.labeller and self._is_asked(one)]
        place = mine.index(body.before) if body.before in mine else len(mine)
        if not place:
            raise RequestError(404, "nothing is before this", "no_such_item")
        return self._give(body.labeller, mine[place - 1])

    async def _label(self, request: Request) -> Response:
        body = await read_body(request, LabelBody)
        item, ask = self._find(body.item)
        order = self._order(item, ask, body.labeller)
        if body.shown != _digest(order, item.id, body.labeller):
            raise RequestError(409, "this item was shown in another order; load the page again", "shown_otherwise")
        marks = None if body.marks is None else _marks(body.marks, ask, order)
        text = None if body.text is None else body.text.replace("\r\n", "\n")
        if (marks is not None and ask == "write") or (text is not None and (ask != "write" or not text.strip())):
            raise RequestError(400, f"of this item is asked to {ask}", "invalid_field")
        media = {medium.kind: str(medium.path.resolve()) for medium in item.media}
        judgement = Judgement(
            item=item.id, labeller=body.labeller, ask=ask, prompt=item.prompt, answers=item.answers, models=item.models,
            media=media, order=order, marks=marks, text=text, seconds=round(body.seconds, 1),
            time=datetime.now(UTC).isoformat(timespec="seconds"), seed=self._seed,
        )  # fmt: skip
        if judgement.skipped and self._judgements.find(item.id, ask, body.labeller) is not None:
            return self._give(body.labeller, self._assignment.next(body.labeller))  # what was said stays
        try:
            self._judgements.add(judgement)
        except OSError as error:
            raise RequestError(507, f"it is not kept: {self._judgements.path}: {error.strerror}", "not_kept") from None
        self._assignment.note(item.id, body.labeller, judgement.skipped)
        return self._give(body.labeller, self._assignment.next(body.labeller))

    async def _medium(self, request: Request) -> Response:
        """A file by its place among those of an item: what a caller spells is never a path."""
        item, _ = self._find(request.path_params["item"])
        try:
            file = item.media[request.path_params["medium"]].files[request.path_params["file"]]
        except IndexError:
            raise RequestError(404, "no such file", "no_such_file") from None
        if not file.is_file():
            raise RequestError(404, f"{file.name} is not there any more", "no_such_file")
        return FileResponse(file, media_type=TYPES[file.suffix.lower()], headers=ALONE)

    async def _results(self, request: Request) -> Response:
        """How far the work is; the scores of models only to who has nothing left, and will not be led by them."""
        body = await read_body(request, NextBody)
        told = await asyncio.to_thread(self._report, list(self._judgements))
        left = self._assignment.left(body.labeller)
        if left:
            told = {name: value for name, value in told.items() if name not in ("scores", "good")}
        files = [{"name": name, "rows": len(rows)} for name, rows in training_files(self._judgements).items()]
        return JSONResponse({**told, "left": left, "files": files})

    async def _file(self, request: Request) -> Response:
        rows = training_files(self._judgements).get(request.path_params["name"])
        if rows is None:
            raise RequestError(404, "no such file", "no_such_file")
        return Response(json_lines(rows), media_type="application/jsonl", headers=ALONE)

    def _find(self, item: str) -> tuple[Item, Ask]:
        if item not in self._asked:
            raise RequestError(404, "no such item", "no_such_item")
        return self._asked[item]

    def _is_asked(self, one: Judgement) -> bool:
        return one.item in self._asked and self._asked[one.item][1] == one.ask

    def _order(self, item: Item, ask: Ask, labeller: str) -> tuple[int, ...]:
        """The places of the answers as they are shown to a person: as before, or by chance."""
        before = self._judgements.find(item.id, ask, labeller)
        if before is not None:
            return before.order
        places = list(range(len(item.answers)))
        random.Random(json.dumps([self._seed, labeller, item.id])).shuffle(places)
        return tuple(places)

    def _give(self, labeller: str, name: str | None) -> Response:
        """An item as the page takes it, without anything that tells whose an answer is."""
        mine = sum(one.labeller == labeller and self._is_asked(one) for one in self._judgements)
        told: dict[str, Any] = {"item": None, "done": mine, "left": self._assignment.left(labeller)}
        if name is not None:
            item, ask = self._asked[name]
            order, before = self._order(item, ask, labeller), self._judgements.find(name, ask, labeller)
            marks = None if before is None or before.marks is None else [before.marks[place] for place in order]
            prompt: Any = item.prompt
            if isinstance(prompt, str):
                prompt = [{"role": "user", "content": prompt}] if prompt else []
            told["item"] = {
                "id": name,
                "shown": _digest(order, name, labeller),
                "ask": ask,
                "prompt": prompt,
                "answers": [] if ask == "write" else [item.answers[place] for place in order],
                "media": [{"kind": m.kind, "name": m.name, "files": len(m.files)} for m in item.media],
                "marks": marks,
                "text": before.text if before is not None else None,
                "again": before is not None,
            }
        return JSONResponse(told)


def _digest(order: Sequence[int], item: str, labeller: str) -> str:
    """Which order was shown, without saying it."""
    return hashlib.blake2b(json.dumps([order, item, labeller]).encode(), digest_size=8).hexdigest()


def _marks(given: Sequence[int], ask: Ask, order: Sequence[int]) -> tuple[int, ...]:
    """Marks in the order of the data; ranks without gaps."""
    if len(given) != len(order):
        raise RequestError(400, f"marks: must be {len(order)}, one of each answer", "invalid_field")
    if ask == "thumbs" and not set(given) <= {0, 1}:
        raise RequestError(400, "marks: must be 1 for good and 0 for bad", "invalid_field")
    ranks = sorted(set(given))
    marks = [mark if ask == "thumbs" else 1 + ranks.index(mark) for mark in given]
    return tuple(marks[order.index(place)] for place in range(len(order)))
