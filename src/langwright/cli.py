"""The command line: verb -> function, imported only when it is called."""

import errno
import importlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langwright import __version__
from langwright.base.console import is_first
from langwright.base.errors import RankError, UserError, suggest

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("langwright.commands.demo:demo", "the whole way on the built-in corpus, with a report"),
    "pretrain": ("langwright.commands.pretrain:pretrain", "train a model from raw text"),
    "finetune": ("langwright.commands.finetune:finetune", "go on training a model on your own text"),
    "prepare": ("langwright.commands.prepare:prepare", "clean, choose and vary conversations to tune on"),
    "merge": ("langwright.commands.merge:merge", "work an adapter into the weights of its model"),
    "generate": ("langwright.commands.generate:generate", "let a model write"),
    "chat": ("langwright.commands.chat:chat", "talk with a model"),
    "next": ("langwright.commands.next:next_token", "the likeliest continuations of a text"),
    "evaluate": ("langwright.commands.evaluate:evaluate", "how well a model predicts a text"),
    "compress": ("langwright.commands.compress:compress", "a model's weights in fewer bits"),
    "show": ("langwright.commands.show:show", "look inside a model"),
}

USUAL: dict[str, tuple[str, ...]] = {
    "pretrain": ("recipe", "family", "depth", "context", "steps", "budget", "batch_size", "tokenizer", "dtype", "seed"),
    "finetune": (
        "recipe", "task", "method", "rank", "target", "bits", "steps", "batch_size", "learning_rate", "context",
    ),
    "generate": (
        "prompt", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "stop", "seed", "adapter", "json",
    ),
    "chat": ("system", "temperature", "top_k", "top_p", "seed", "max_new_tokens", "adapter", "template", "bits"),
    "evaluate": ("text", "split", "field", "context", "batch_size", "adapter", "bits", "dtype", "device", "json"),
}  # fmt: skip
"""What `--help` shows of the commands with many options, first things first; of others it shows the first ten."""

HELP = {"-h", "--help"}

# A full disk or a folder without permission is the user's to mend, wherever it strikes.
MENDABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOLCK,
}


@dataclass(frozen=True)
class Call:
    """A command line that has been understood: the function and its arguments."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self) -> int:
        """Run it. A command returns None, or its exit code."""
        return int(self.function(**self.arguments) or 0)


def parse(argv: Sequence[str]) -> Call:
    """Understand a command line without running it. Raises UserError when it does not fit."""
    if not argv or argv[0] in HELP:
        return Call(_show, {"text": overview()})
    verb, *rest = argv
    if verb == "--version":
        return Call(_show, {"text": f"langwright {__version__}"})
    from langwright.base.arguments import Command

    if verb not in VERBS:
        kind = "option" if verb.startswith("-") else "command"
        raise UserError(f'unknown {kind} "{verb}"{suggest(verb, VERBS) or "; see langwright --help"}')
    module, name = VERBS[verb][0].split(":")
    function = getattr(importlib.import_module(module), name)
    command = Command(function, f"langwright {verb}", USUAL.get(verb, ()))
    asked = (HELP | {"--help-all"}).intersection(itertools.takewhile(lambda word: word != "--", rest))
    return Call(_show, {"text": command.help("--help-all" in asked)}) if asked else Call(function, command.read(rest))


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
    try:
        _on_sigterm(_terminate)
        code = parse(argv)()
        sys.stdout.flush()
        return code
    except UserError as error:
        told = str(error) if isinstance(error, RankError) else is_first()
        return _complain(f"{name}: {error}", 2) if told else 2
    except _Terminated:
        return _complain(f"{name}: terminated", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _complain(f"{name}: interrupted", 130)
    except BrokenPipeError:
        # The reader has left (`| head`). Python flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except (MemoryError, RuntimeError) as error:
        if (
            not isinstance(error, MemoryError)
            and "allocate memory" not in str(error)
            and "out of memory" not in str(error)
        ):
            raise
        return _complain(f"{name}: not enough memory for a model or batch of this size; choose a smaller one", 2)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{name}: {where}{error.strerror}", 2)
    finally:
        _on_sigterm(signal.SIG_DFL)


class _Terminated(BaseException):
    """SIGTERM, as an exception like KeyboardInterrupt: what must be cleaned up is."""


def _on_sigterm(handler: Any) -> None:
    """Python lets only the main thread say what happens on a signal."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _terminate(*_: object) -> None:
    raise _Terminated


def _complain(message: str, code: int) -> int:
    print(" ".join(message.splitlines()), file=sys.stderr)
    return code
