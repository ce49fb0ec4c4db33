"""Every command and program in README.md and docs/ does what it says, and every link leads somewhere."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import Block, blocks, commands, execute, langwright_lines, matches
from langwright.cli import parse
from preloaded import preloaded

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LONG = os.environ.get("LANGWRIGHT_DOCS") == "long"


@pytest.fixture(scope="module")
def python() -> Iterator[list[str]]:
    """Python processes that begin at once; see `test_blocks`."""
    with preloaded() as program:
        yield [sys.executable, "-IS", "-c", program]


@pytest.mark.timeout(0 if LONG else 900)
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks(path: Path, tmp_path: Path, python: list[str]) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "recipes").symlink_to(ROOT / "recipes")  # as in the folder of a clone
    seen: set[str] = set()
    for block in blocks(path):
        told = {block.language, *re.findall(r"\blangwright (\w+)", block.text)}
        fresh = LONG or (
            path.name == "README.md" and not told <= seen
        )  # there each verb imports all that it needs once
        seen |= told
        follow(block, folder, None if fresh else python)


def follow(block: Block, folder: Path, python: list[str] | None = None) -> None:
    """Run a block, or do what its marker asks instead."""
    if block.kind == "long" and not LONG:
        understand(block)
    elif block.kind != "text":
        execute(block, folder, python)


def understand(block: Block) -> None:
    """What can be checked of a block without running it."""
    if block.language == "python":
        compile(block.text, block.where, "exec")
        return
    for argv in langwright_lines(block):
        parse(argv)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    broken = [t for t in targets if "://" not in t and not (path.parent / t.split("#")[0]).exists()]
    assert not broken, f"{path.name} links to what is not there: {broken}"


# The tests of the test: a documentation check that could not fail would be worse than none.


@pytest.fixture
def document(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "page.md"


def run(document: Path, text: str) -> None:
    document.write_text(text)
    for block in blocks(document):
        follow(block, document.parent / "here")


STORY = """
<!-- run -->
```bash
echo 'a b' > file
```

<!-- run check -->

```console
$ cat file
a b
$ wc -w \\
< file
...2
```
<!-- run check -->
```python
print(open('file').read() * 2)
```

It prints:

```text
a b
...
```
```yaml
a: 1
```
<!-- run check fails -->
```console
$ langwright pretrian
langwright: unknown command "pretrian"; did you mean "pretrain"?
```
"""


def test_later_blocks_see_what_earlier_ones_wrote(document: Path) -> None:
    run(document, STORY)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("```bash\ntrue\n```\n", ValueError, "page.md:1: a bash block without a marker"),
        ("<!-- small: -n 1 -->\n```python\n1\n```\n", ValueError, "page.md:2: .* does not fit a python block"),
        ("<!-- run check -->\n```python\n1\n```\n", ValueError, "page.md:2: a checked python block without a text"),
        ("<!-- run -->\n```console\nout\n```\n", ValueError, "page.md:2: a console block begins with a command"),
        ("<!-- run -->\n```bash\nfalse | true\n```\n", AssertionError, "page.md:2: exit code 1"),
        ("<!-- run -->\n```python\n1 / 0\n```\n", AssertionError, "ZeroDivisionError"),
        ("<!-- run -->\n```console\n$ false\n$ true\n```\n", AssertionError, "page.md:2: exit code 1"),
        ("<!-- run fails -->\n```console\n$ true\n```\n", AssertionError, "page.md:2: exit code 0"),
        ("<!-- run check -->\n```console\n$ echo a\nb\n```\n", AssertionError, "but the document says"),
        ("<!-- run check -->\n```python\n1\n```\n\n```text\n2\n```\n", AssertionError, "but the document says"),
    ],
)
def test_what_does_not_work_is_noticed(document: Path, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(document, text)


def test_small_adds_words_to_every_command(document: Path) -> None:
    run(document, "<!-- small: --version 'a b' -->\n```bash\nlangwright | grep 'langwright 0'\n```\n")
    with pytest.raises(AssertionError, match="unknown command"):
        run(document, "<!-- small: 'a b' -->\n```console\n$ langwright\n```\n")


def test_long_blocks_are_parsed(document: Path) -> None:
    text = (
        "$ langwright pretrian c \\\n  'o p' --steps 3 | tee log\n...\n$ FOO=1 make demo && langwright --version; ls\n"
    )
    block = Block("page.md:1", "console", text, "long")
    assert langwright_lines(block) == [["pretrian", "c", "o p", "--steps", "3"], ["--version"]]
    assert [command.split()[0] for command, _ in commands(block)] == ["langwright", "FOO=1"]
    with pytest.raises(Exception, match="unknown command"):
        understand(block)
    with pytest.raises(SyntaxError):
        understand(Block("page.md:1", "python", "a b", "long"))


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("a\n", "a\n\n", True),
        ("a\n", "b\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nd\n", True),
        ("loss ... (x)\n", "loss 1.5 (x)  \n", True),
        ("loss ... (x)\n", "loss 1.5\n(x)\n", False),
    ],
)
def test_matches(expected: str, output: str, same: bool) -> None:
    assert matches(expected, output) is same
