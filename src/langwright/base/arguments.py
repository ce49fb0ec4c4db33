"""From a function's signature to its command line, and from a command line to the function's arguments.

A parameter without a default, or before a `/`, is positional; one with a default is an option. A parameter whose type
is a dataclass is a recipe: its fields are options of their own, and the parameter's name is an option that reads them
from a flat YAML file. Flags go before the file, the file before the defaults. What docstrings say of a name is its
help. The rest is cyclopts.
"""

import dataclasses
import functools
import inspect
import io
import json
import re
import shutil
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from langwright.base.errors import UserError, suggest
from langwright.base.files import read_text
from langwright.base.value_types import fits, from_texts, leaves, spelt

SHOWN = 10
"""Options that `--help` shows; `--help-all` shows all."""

MISSING = inspect.Parameter.empty
_DASHED = "\0"
"""Before a text such as "- a list", which is no option; no argument of a process can hold it."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One value that a command takes.

    Args:
        name: As in Python, with underscores.
        kind: Its type annotation.
        default: `MISSING` when it must be given.
        text: Its help, one paragraph.
        positional: Whether its place says what it is, not its name.
    """

    name: str
    kind: Any
    default: Any
    text: str
    positional: bool = False


class Command:
    """A function as a command.

    Args:
        function: What the command runs.
        program: Its name on the command line.
        usual: The options that `--help` shows; the first `SHOWN` unless given.
    """

    def __init__(self, function: Callable[..., Any], program: str, usual: Collection[str] = ()) -> None:
        self.function, self.program, self.recipes = function, program, dict[str, Any]()
        self.options: list[Option] = []
        parameters = inspect.signature(function, eval_str=True).parameters
        texts = option_texts(inspect.getdoc(function) or "", parameters)
        for name, parameter in parameters.items():
            kind, default = parameter.annotation, parameter.default
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                self.recipes[name] = kind() if default is MISSING else default
                self.options.append(Option(name, Path | None, None, "YAML file of options; flags override it"))
                self.options += _fields(self.recipes[name])
            else:
                required = default is MISSING and parameter.kind is not parameter.KEYWORD_ONLY
                positional = required or parameter.kind is parameter.POSITIONAL_ONLY
                self.options.append(Option(name, kind, default, texts.get(name, ""), positional))
        self.usual = usual or [option.name for option in self.options if not option.positional][:SHOWN]

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """The arguments that `argv` asks for, converted. Raises UserError for what does not fit."""
        import cyclopts

        dashed = [_DASHED + word if re.match(r"-$|-[^=\s]*\s", word) else word for word in argv]
        try:
            _, bound, _ = self._app(True).parse_args(dashed, exit_on_error=False, print_error=False)
        except cyclopts.CycloptsError as error:
            reason = " ".join(str(error).replace(_DASHED, "").split()).rstrip(".")
            raise UserError(reason if reason.endswith("?") else f"{reason}; see {self.program} --help") from None
        given = dict(bound.arguments)
        for name, recipe in self.recipes.items():
            path = given.pop(name, None)
            settings = {} if path is None else read_recipe(path, type(recipe))
            flags = {option.name: given.pop(option.name) for option in _fields(recipe) if option.name in given}
            given[name] = dataclasses.replace(recipe, **{**settings, **flags})
        return given

    def call(self, argv: Sequence[str]) -> "functools.partial[Any]":
        """The function with the arguments that `argv` asks for. Raises UserError for what does not fit."""
        given, parameters = self.read(argv), inspect.signature(self.function).parameters.values()
        placed = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in given]
        return functools.partial(self.function, *map(given.pop, placed), **given)

    def help(self, everything: bool = False) -> str:
        """What `--help` prints, or `--help-all`: every option."""
        from rich.console import Console

        file = io.StringIO()
        console = Console(file=file, width=min(120, shutil.get_terminal_size().columns))
        self._app(everything).help_print([], console=console)
        hidden = sum(not option.positional for option in self.options) - len(self.usual)
        more = f"\n{self.program} --help-all shows {hidden} more options." if hidden > 0 and not everything else ""
        return file.getvalue().strip() + more

    def _app(self, everything: bool) -> Any:
        import cyclopts

        def take(**_: Any) -> None: ...

        parameters = []
        for option in self.options:
            extra = cyclopts.Parameter(
                help=option.text,
                show_default=_default if _default(option.default) else False,
                show=option.positional or everything or option.name in self.usual,
                converter=None if option.kind is bool else functools.partial(_from_tokens, option),
            )
            kind = inspect.Parameter.POSITIONAL_ONLY if option.positional else inspect.Parameter.KEYWORD_ONLY
            annotation: Any = Annotated[option.kind, extra]
            parameters.append(inspect.Parameter(option.name, kind, default=option.default, annotation=annotation))
        order = [] if everything else list(self.usual)
        parameters.sort(key=lambda p: (p.kind, order.index(p.name) if p.name in order else 0))
        take.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        take.__annotations__ = {p.name: p.annotation for p in parameters}
        app = cyclopts.App(
            name=self.program,
            help=(inspect.getdoc(self.function) or "").split("\n\n")[0],
            help_flags=(),
            version_flags=(),
            default_parameter=cyclopts.Parameter(negative_iterable=(), negative_none=(), allow_repeating=True),
        )
        app.default(take)
        return app


def option_texts(docs: str, names: Iterable[str]) -> dict[str, str]:
    """What a docstring says of each name: a line `name: text`, going on until an empty line or the next name."""
    start = re.compile(rf"\s*({'|'.join(map(re.escape, names))}): *(.*)")
    texts: dict[str, str] = {}
    current = ""
    for line in docs.splitlines():
        if match := start.fullmatch(line):
            current = match[1]
            texts[current] = match[2]
        elif not line.strip():
            current = ""
        elif current:
            texts[current] += " " + line.strip()
    return texts


def _fields(recipe: Any) -> list[Option]:
    cls, kinds = type(recipe), typing.get_type_hints(type(recipe))
    bases = [base.__doc__ or "" for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    texts = {name: text for doc in bases for name, text in option_texts(doc, kinds).items()}
    fields = [field.name for field in dataclasses.fields(recipe) if field.init]
    return [Option(name, kinds[name], getattr(recipe, name), texts.get(name, "")) for name in fields]


def _default(value: Any) -> str:
    """A default as it is typed; nothing where there is none, or an empty one."""
    if value is None or value is MISSING:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _from_tokens(option: Option, _: Any, tokens: Sequence[Any]) -> Any:
    """What cyclopts calls to convert the texts given for an option."""
    where = option.name.upper() if option.positional else "--" + option.name.replace("_", "-")
    return from_texts(option.kind, [token.value.removeprefix(_DASHED) for token in tokens], where)


def read_recipe(path: Path, cls: type) -> dict[str, Any]:
    """The fields of the dataclass `cls` that a flat YAML file sets, converted to their types.

    Raises:
        UserError: Names the file for what is missing, broken, unknown, double or of the wrong type.
    """
    kinds = {name: typing.get_type_hints(cls)[name] for name in (f.name for f in dataclasses.fields(cls) if f.init)}
    settings: dict[str, Any] = {}
    for key, value in _yaml_items(path):
        name = str(key).replace("-", "_")
        if name not in kinds:
            raise UserError(f'{path}: unknown key "{key}"{suggest(name, kinds)}')
        if name in settings:
            raise UserError(f'{path}: the key "{key}" is given twice')
        settings[name] = _from_yaml(kinds[name], value, f"{path}: {key}")
    return settings


def _from_yaml(kind: Any, value: Any, where: str) -> Any:
    """A value of a YAML file as its option's type."""
    parts = leaves(kind)
    if isinstance(value, str) and str not in parts:
        return from_texts(kind, [value], where)  # 1e-3 is text to YAML, and so is every path
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value) if str in parts else float(value) if float in parts else value
    if not fits(value, kind):
        raise UserError(f"{where}: expected {spelt(kind)}, got {json.dumps(value, ensure_ascii=False, default=str)}")
    return tuple(value) if isinstance(value, list) else value


def _yaml_items(path: Path) -> list[tuple[Any, Any]]:
    """The pairs of a flat YAML file, doubles kept."""
    import yaml

    text = read_text(path, "the recipe")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f'{path}:{node.start_mark.line + 1}: expected lines of the form "key: value"')
        build = yaml.SafeLoader("").construct_object
        return [(build(key, deep=True), build(value, deep=True)) for key, value in node.value]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates that Python cannot hold, lists without end
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{f':{mark.line + 1}' if mark else ''}: not valid YAML: {reason}") from None
