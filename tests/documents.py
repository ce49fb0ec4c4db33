"""Code blocks of the documentation: found, run, shortened or parsed, as the comment above each asks.

    <!-- run -->                 run in a fresh process, in one folder a document: later blocks see earlier results
    <!-- run check -->           and its output must match; `...` stands for anything, alone on a line for any lines
                                 (the output of a python block is the text block after it)
    <!-- run fails -->           and its last command must end with an error (`run check fails`: with this output)
    <!-- small: --steps 3 -->    run, with these words added to every langwright command
    <!-- long -->                langwright commands are parsed only, and run by `make docs`
    <!-- text -->                not run: output, or a command that no test can run

Blocks are `console` (lines after "$ " are commands, the rest is their output), `bash` and `python`.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

LANGUAGES = {"console", "bash", "python"}
MARKER = re.compile(r"<!--\s*(?:(run)((?: check| fails)*)|small:\s*(\S.*?)|(long)|(text))\s*-->")
FENCE = re.compile(
    r"(?:^(?P<above>.*\S.*)\n\s*)?^(?P<indent> *)```(?P<language>.*)\n(?P<text>(?:.*\n)*?) *```$", re.MULTILINE
)
OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>"}


@dataclass(frozen=True)
class Block:
    """One marked block.

    where: document and line, for messages.
    kind: "run", "small", "long" or "text".
    extra: what `small` adds to every command.
    output: what a python block must print, when it is checked.
    """

    where: str
    language: str
    text: str
    kind: str
    check: bool = False
    fails: bool = False
    extra: str = ""
    output: str | None = None


def blocks(path: Path) -> list[Block]:
    """The code blocks of a Markdown file. Raises ValueError naming each that lacks a marker."""
    found, problems = [], []
    content = path.read_text(encoding="utf-8")
    for fence in FENCE.finditer(content):
        above, indent, language, text = fence.groups()
        where = f"{path.name}:{content.count(chr(10), 0, fence.start('language')) + 1}"
        text = re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
        marker = MARKER.fullmatch((above or "").strip())
        if language in LANGUAGES and marker is None:
            problems.append(f"{where}: a {language} block without a marker (run, small, long or text)")
        elif language in LANGUAGES and marker is not None:
            found.append(_block(where, language, text, marker))
        elif language == "text" and found and _wants_output(found[-1]):
            found[-1] = replace(found[-1], output=text)
    unshown = [block.where for block in found if _wants_output(block)]
    problems += [f"{where}: a checked python block without a text block after it" for where in unshown]
    if problems:
        raise ValueError("\n".join(problems))
    return found


def _wants_output(block: Block) -> bool:
    return block.language == "python" and block.check and block.output is None


def _block(where: str, language: str, text: str, marker: "re.Match[str]") -> Block:
    run, words, small, long, _ = marker.groups()
    kind = "run" if run else "small" if small else "long" if long else "text"
    fits = {"console": {"check", "fails"}, "python": {"check"}}.get(language, set())
    if (small and language == "python") or not fits.issuperset((words or "").split()):
        raise ValueError(f"{where}: {marker[0]} does not fit a {language} block")
    return Block(where, language, text, kind, "check" in (words or ""), "fails" in (words or ""), small or "")


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown under it."""
    pairs: list[tuple[str, str]] = []
    goes_on = False
    for line in block.text.splitlines(keepends=True):
        if goes_on or line.startswith("$ "):
            text = line if goes_on else line[2:]
            pairs[len(pairs) - goes_on :] = [(pairs[-1][0] + text if goes_on else text, "")]
            goes_on = text.rstrip("\n").endswith("\\")
        elif pairs:
            pairs[-1] = (pairs[-1][0], pairs[-1][1] + line)
        elif line.strip():
            raise ValueError(f'{block.where}: a console block begins with a command ("$ ...")')
    return pairs


def langwright_lines(block: Block) -> list[list[str]]:
    """The arguments of every langwright command in a block, to be parsed."""
    text = "".join(command for command, _ in commands(block)) if block.language == "console" else block.text
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        current: list[str] = []
        for word in [*lexer, ";"]:
            if word not in OPERATORS:
                current.append(word)
                continue
            if current[:1] == ["langwright"]:
                found.append(current[1:])
            current = []
    return found


def execute(block: Block, folder: Path, python: Sequence[str] | None = None) -> None:
    """Run a block in `folder`. Raises AssertionError with the output when it does not do what the document says.

    python: a command that takes the arguments of langwright, or -c and a program, in place of this interpreter.
    """
    if block.language == "console":
        steps = commands(block)
        for number, (command, expected) in enumerate(steps):
            fails = block.fails and number == len(steps) - 1
            output = _run(["bash", "-c", command], block, folder, fails, python)
            if block.check and not matches(expected, output):
                raise AssertionError(f"{block.where}: $ {command}shows\n{output}\nbut the document says\n{expected}")
    elif block.language == "python":
        output = _run([*(python or [sys.executable]), "-c", block.text], block, folder, False, python)
        if block.output is not None and not matches(block.output, output):
            raise AssertionError(f"{block.where}: prints\n{output}\nbut the document says\n{block.output}")
    else:
        _run(["bash", "-euo", "pipefail", "-c", block.text], block, folder, False, python)


def matches(expected: str, output: str) -> bool:
    """Whether output is as shown; `...` stands for anything in a line, and alone on a line for any lines."""
    pattern = ""
    for line in _trimmed(expected):
        parts = (re.escape(part) for part in line.split("..."))
        pattern += "(?:.*\n)*" if line.strip() == "..." else ".*".join(parts) + "\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in _trimmed(output))) is not None


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def _run(command: list[str], block: Block, folder: Path, fails: bool, python: Sequence[str] | None) -> str:
    environment = os.environ | {"PATH": f"{_tools(folder, python)}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["LANGWRIGHT_DOCS_EXTRA"] = block.extra
    if block.kind == "long":
        environment.pop("OMP_NUM_THREADS", None)  # the tests' single thread is not for long jobs
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if (done.returncode != 0) is not fails:
        raise AssertionError(f"{block.where}: exit code {done.returncode} after\n{command[-1]}\n{done.stdout}")
    return done.stdout


def _tools(folder: Path, python: Sequence[str] | None) -> Path:
    """A folder with the `langwright` command of this checkout, which adds the words of `small`."""
    tools = folder.parent / f"{folder.name}-bin{'' if python else '-fresh'}"
    script = tools / "langwright"
    if not script.exists():
        tools.mkdir()
        command = python or [sys.executable, "-m", "langwright"]
        words = 'eval "set -- \\"\\$@\\" $LANGWRIGHT_DOCS_EXTRA"'
        script.write_text(f'#!/bin/sh\n{words}\nexec {shlex.join(command)} "$@"\n')
        script.chmod(0o755)
    return tools
