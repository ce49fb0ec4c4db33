"""langwright serve: models behind OpenAI's HTTP interface."""

from pathlib import Path
from typing import TYPE_CHECKING

from langwright.base.errors import UserError, check_flag
from langwright.base.extras import need
from langwright.base.hub import parse_hub_name
from langwright.commands._door import caller_keys
from langwright.pipelines.cascade import open_cascade
from langwright.pipelines.opening import Loading, Opening

if TYPE_CHECKING:
    from langwright.serving.app import Writing
    from langwright.serving.served import Served


def serve(
    models: tuple[Path, ...],
    port: int = 8000,
    host: str = "127.0.0.1",
    api_key: tuple[str, ...] = (),
    page: bool = False,
    adapter: tuple[str, ...] = (),
    cascade: tuple[str, ...] = (),
    draft: Path | None = None,
    lookup: bool = False,
    batch: int = 16,
    queue: int = 64,
    longest: int | None = None,
    prompt_tokens: int = 512,
    deadline: float = 600.0,
    drain: float = 30.0,
    loading: Loading = Loading(),
) -> None:
    """Answer requests over HTTP, in the form of OpenAI's interface, until SIGTERM or Ctrl-C.

    Args:
        models: model folders, or models of the Hub; each is served under the name of its folder.
        port: where the server listens; 0 is any that is free.
        host: the address; another than this machine's own needs a key.
        api_key: what callers must show, several for several callers; LANGWRIGHT_API_KEY in the environment is one too.
        page: hand the chat page at / to who shows no key too; it holds no data and asks for the key, which every
            request then carries. Without keys the page is always there.
        adapter: NAME=FOLDER, an adapter that is served as a model of this name, beside the model that it is for.
        cascade: FOLDER or NAME=FOLDER, a cascade or a router, served as cascade:NAME or router:NAME; its models are
            opened beside those that are served, or are these.
        draft: a smaller model with the same tokens, which guesses what comes next; texts stay the same.
        lookup: guess what comes next from what followed the last time when the text went so; texts stay the same.
        batch: how many texts of a model are written side by side.
        queue: how many more may wait; further requests are turned away with status 429.
        longest: tokens of a prompt and its text for which memory is set aside; the context of the model unless given.
        prompt_tokens: how many tokens of prompts are read between two tokens of the texts that are being written.
        deadline: seconds after which a text ends as it is.
        drain: seconds that texts have to end when the server is told to.
        loading: how the weights are read.
    """
    need("prometheus_client", "server", "langwright serve")
    keys = caller_keys("langwright serve", port, host, api_key)
    from langwright.serving.app import Service
    from langwright.serving.composed import open_served_cascade
    from langwright.serving.process import listen
    from langwright.serving.process import serve as run
    from langwright.serving.served import belongs_to, open_adapter, open_model

    for name, value in {"batch": batch, "queue": queue, "prompt_tokens": prompt_tokens}.items():
        check_flag(name, value, value >= (name != "queue"), "0 or more" if name == "queue" else "at least 1")
    check_flag("deadline", deadline, 0 < deadline < 1e6, "above 0, in seconds")
    check_flag("drain", drain, 0 <= drain < 1e6, "0 or more, in seconds")
    if draft is not None and len(models) > 1:
        raise UserError("--draft: guesses for one model; serve the others by another process")
    named = {_name(folder): folder for folder in models}
    tuned = dict(_named(spec, "adapter") for spec in adapter)
    if len(named) + len(tuned) < len(models) + len(adapter) or not named.keys().isdisjoint(tuned):
        raise UserError("two models or adapters have the same name; adapters get theirs by --adapter NAME=FOLDER")

    chains = [_named(spec, "cascade") if "=" in spec else (_name(Path(spec)), Path(spec)) for spec in cascade]
    if len(dict(chains)) < len(chains):
        raise UserError("--cascade: two have the same name; give them names by --cascade NAME=FOLDER")
    opening = Opening(**vars(loading))
    for _, folder in chains:
        open_cascade(folder, opening.open)  # what is wrong with a folder is said before models are loaded

    def load() -> "list[Writing]":
        opened: dict[str, Served] = {}

        def part(folder: Path, name: str, draft: Path | None = None) -> "Served":
            place = str(folder if parse_hub_name(str(folder)) else folder.resolve())
            if place not in opened:
                opened[place] = open_model(
                    name, folder, opening, batch, queue,
                    draft=draft, lookup=lookup, longest=longest, prompt_tokens=prompt_tokens,
                )  # fmt: skip
            return opened[place]

        served = {name: part(folder, name, draft) for name, folder in named.items()}
        for name, folder in tuned.items():
            home = belongs_to(folder, named)
            served[name] = open_adapter(name, folder, served[home], named[home])
        together = [open_served_cascade(name, folder, opening, part) for name, folder in chains]
        return [*served.values(), *together]

    service = Service(keys, deadline, page)
    with listen(host, port) as bound:
        run(service, bound, load, lambda url: print(f"listening on {url}", flush=True), drain)


def _name(folder: Path) -> str:
    """The name of a model: that of its folder, or of its repository."""
    hub = parse_hub_name(str(folder))
    return folder.resolve().name if hub is None else hub.repository.rpartition("/")[2]


def _named(spec: str, flag: str) -> tuple[str, Path]:
    """NAME=FOLDER."""
    name, equals, folder = spec.partition("=")
    if not (name and equals and folder):
        raise UserError(f"--{flag} {spec}: is written NAME=FOLDER")
    return name, Path(folder)
