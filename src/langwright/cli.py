"""The command line: verb -> function, imported only when it is called."""

import contextlib
import importlib
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from langwright import __version__
from langwright.base.console import is_first
from langwright.base.errors import RankError, UserError, suggest

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("langwright.commands.demo:demo", "the whole way on the built-in corpus, with a report"),
    "pretrain": ("langwright.commands.pretrain:pretrain", "train a model from raw text"),
    "finetune": ("langwright.commands.finetune:finetune", "go on training a model on your own text"),
    "align": ("langwright.commands.align:align", "learn from what people prefer"),
    "compare": ("langwright.commands.compare:compare", "how often one model's answers are worth more than another's"),
    "prepare": ("langwright.commands.prepare:prepare", "clean, choose and vary conversations to tune on"),
    "merge": ("langwright.commands.merge:merge", "work an adapter into the weights of its model"),
    "generate": ("langwright.commands.generate:generate", "let a model write"),
    "chat": ("langwright.commands.chat:chat", "talk with a model"),
    "serve": ("langwright.commands.serve:serve", "answer over HTTP, in the form of OpenAI's interface"),
    "label": ("langwright.commands.label:label", "a page for people: demonstrations, captions, rankings"),
    "next": ("langwright.commands.next:next_token", "the likeliest continuations of a text"),
    "predict": ("langwright.commands.predict:predict", "do a model's task for each row of a file"),
    "cascade": ("langwright.commands.cascade:cascade", "several models that answer together for less"),
    "evaluate": ("langwright.commands.evaluate:evaluate", "how well a model predicts a text"),
    "baseline": ("langwright.commands.baseline:baseline", "classical models to beat: n-grams, bags of words, gzip"),
    "words": ("langwright.commands.words:words", "vectors of words: train, ask, measure"),
    "compress": ("langwright.commands.compress:compress", "a model's weights in fewer bits"),
    "export": ("langwright.commands.export:export", "a model for llama.cpp, or as a plain folder"),
    "prune": ("langwright.commands.prune:prune", "a model with weights, heads or layers left out"),
    "distill": ("langwright.commands.distill:distill", "a smaller model that learns from a larger one"),
    "doctor": ("langwright.commands.doctor:doctor", "what this machine is, and which kernels run on it"),
    "show": ("langwright.commands.show:show", "look inside a model"),
}

USUAL = {
    "pretrain": "recipe family depth context steps budget batch_size tokenizer dtype seed",
    "finetune": "recipe task method rank target bits steps batch_size learning_rate context",
    "align": "method reward kl group max_new_tokens adapter steps batch_size learning_rate recipe",
    "distill": "recipe temperature soft hidden depth steps batch_size learning_rate context dtype",
    "generate": "prompt max_new_tokens temperature top_k top_p min_p stop seed adapter json",
    "chat": "system temperature top_k top_p seed max_new_tokens adapter template bits",
    "serve": "port host api_key adapter cascade draft batch queue bits device",
    "cascade": "model scorer cost price budget max_new_tokens prompt prompts limit json",
    "words": "analogy near questions similarity architecture loss dimension epochs workers json",
    "evaluate": "text split field context batch_size adapter bits dtype device json",
    "baseline": "split unit order sample sentence per_class neighbours text_field label_field json",
}
"""What `--help` shows of the commands with many options, first things first; of others it shows the first ten."""

HELP = {"-h", "--help"}


def parse(argv: Sequence[str]) -> "partial[Any]":
    """Understand a command line without running it.

    Returns:
        The function and its arguments. A command returns None, or its exit code.

    Raises:
        UserError: The command line does not fit.
    """
    if not argv or argv[0] in HELP:
        return partial(_show, overview())
    verb, *rest = argv
    if verb == "--version":
        return partial(_show, f"langwright {__version__}")
    from langwright.base.arguments import Command

    if verb not in VERBS:
        kind = "option" if verb.startswith("-") else "command"
        raise UserError(f'unknown {kind} "{verb}"{suggest(verb, VERBS) or "; see langwright --help"}')
    module, name = VERBS[verb][0].split(":")
    function = getattr(importlib.import_module(module), name)
    command = Command(function, f"langwright {verb}", USUAL.get(verb, "").split())
    asked = (HELP | {"--help-all"}).intersection(itertools.takewhile(lambda word: word != "--", rest))
    return partial(_show, command.help("--help-all" in asked)) if asked else command.call(rest)


def _show(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))  # boxes are no ASCII


def overview() -> str:
    """What `langwright --help` prints."""
    width = max(map(len, VERBS))
    table = "\n".join(f"  {verb:{width}}  {text}" for verb, (_, text) in VERBS.items())
    return (
        "usage: langwright COMMAND ...\n\n"
        "From raw text to a language model, on the machine you have.\n\n"
        f"commands:\n{table}\n\n"
        "langwright COMMAND --help shows what a command takes, --help-all all of it; langwright --version the version."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 2 for a user's mistake, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    name = f"langwright {argv[0]}" if argv and argv[0] in VERBS else "langwright"
    if "WORLD_SIZE" in os.environ:  # data parallelism warns of what is meant; torch reads this when it is imported
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _open_streams()
    try:
        _on_sigterm(_terminate)
        code = int(parse(argv)() or 0)
        sys.stdout.flush()
        return code
    except RankError as error:
        if str(error):
            print(" ".join(f"{name}: {error}".splitlines()), file=sys.stderr, flush=True)
        # Leaving as usual frees the group of processes while Python's lock is held, and gloo's thread may wait for that
        # lock to free a tensor of a broken exchange: the process would never end.
        os._exit(2)
    except UserError as error:
        message, code = str(error), 2
        if not is_first():
            return code
    except _Terminated:
        message, code = "terminated", 128 + signal.SIGTERM
    except KeyboardInterrupt:
        message, code = "interrupted", 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader has left (`| head`). Python flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("allocate memory|out of memory", str(error)):
            raise
        message, code = "not enough memory for a model or batch of this size; choose a smaller one", 2
    except OSError as error:  # a full disk, a folder without permission
        if error.strerror is None:
            raise
        message, code = f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2
    finally:
        _on_sigterm(signal.SIG_DFL)
    print(" ".join(f"{name}: {message}".splitlines()), file=sys.stderr)
    return code


def _open_streams() -> None:
    """Streams that were closed by who started the process lead nowhere; what stdout cannot spell is written escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for as long as the process lives)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Terminated(BaseException):
    """SIGTERM, as an exception like KeyboardInterrupt: what must be cleaned up is."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _on_sigterm(handler: Any) -> None:
    with contextlib.suppress(ValueError):  # only the main thread may say what happens on a signal
        signal.signal(signal.SIGTERM, handler)
