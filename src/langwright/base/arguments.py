"""From a function's signature to its command line, and from a command line to the function's arguments.

A parameter without a default is positional; one with a default is an option, spelled with dashes. A parameter whose
type is a dataclass is a recipe: its fields are options of their own, and the parameter's name is an option that
reads them from a flat YAML file. Flags go before the file, the file before the defaults. What a function and its
recipe say in their docstrings (`name: text`) is the help text.

bool options are pairs, `--compile` and `--no-compile`; a function's own bool with default False is a plain flag.
Tuples and lists are given by repeating the option. An option of type `X | None` takes `null`, unless X is text.
"""

import argparse
import dataclasses
import difflib
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from langwright.base.errors import UserError
from langwright.base.value_types import spelt

MISSING = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Option:
    """One value that a command takes.

    name: as in Python, with underscores.
    kind: its type annotation.
    default: MISSING when it must be given.
    text: its help, one paragraph.
    positional: known by its place instead of its name.
    pair: a bool that can also be switched off by name.
    """

    name: str
    kind: Any
    default: Any
    text: str
    positional: bool = False
    pair: bool = True

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def many(self) -> bool:
        """Whether the option may be repeated."""
        return any(get_origin(kind) in (tuple, list) for kind in _alternatives(self.kind))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A parameter that is a dataclass, with its fields as options and a file option of its own."""

    name: str
    cls: type
    options: tuple[Option, ...]

    @property
    def file(self) -> Option:
        """The option that names a YAML file with the fields."""
        return Option(self.name, Path, None, "YAML file with the options below; flags override it")


@dataclasses.dataclass(frozen=True)
class Command:
    """What `read_signature` learnt about a function."""

    function: Callable[..., Any]
    summary: str
    options: tuple[Option, ...]
    recipes: tuple[Recipe, ...]

    def all_options(self) -> list[Option]:
        """Every name the command line knows, in the order of the help."""
        return [*self.options, *(option for recipe in self.recipes for option in (recipe.file, *recipe.options))]


def read_signature(function: Callable[..., Any]) -> Command:
    """The options of a function. Raises TypeError for a signature that no command line can express."""
    docs = inspect.getdoc(function) or ""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    texts = option_texts(docs, [parameter.name for parameter in parameters])
    options: list[Option] = []
    recipes: list[Recipe] = []
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{function.__qualname__}: {parameter} cannot be a command's parameter")
        if dataclasses.is_dataclass(parameter.annotation) and isinstance(parameter.annotation, type):
            recipes.append(Recipe(parameter.name, parameter.annotation, _fields(parameter.annotation)))
            continue
        default = MISSING if parameter.default is parameter.empty else parameter.default
        positional = default is MISSING and parameter.kind is not parameter.KEYWORD_ONLY
        text = texts.get(parameter.name, "")
        options.append(Option(parameter.name, parameter.annotation, default, text, positional, default is not False))
    command = Command(function, docs.split("\n\n")[0], tuple(options), tuple(recipes))
    names = [option.name for option in command.all_options()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise TypeError(f"{function.__qualname__}: two options are called {', '.join(sorted(twice))}")
    return command


def read_arguments(command: Command, program: str, argv: Sequence[str]) -> dict[str, Any]:
    """The arguments that `argv` asks for, converted and complete. Raises UserError for anything that does not fit."""
    _refuse_unknown_flags(command, program, argv)
    given, extra = _parser(command, program).parse_known_args(argv)
    if extra:
        hint = '; put "--" before a text that begins with a dash' if extra[0].startswith("-") else ""
        raise UserError(f'unexpected argument "{extra[0]}"{hint}; see {program} --help')
    flags: dict[str, Any] = vars(given)
    values = _complete(command.options, {}, flags, program)
    for recipe in command.recipes:
        settings = read_recipe(Path(flags[recipe.name]), recipe.cls) if recipe.name in flags else {}
        values[recipe.name] = recipe.cls(**_complete(recipe.options, settings, flags, program))
    return values


def help_text(command: Command, program: str) -> str:
    """What `--help` prints."""
    return _parser(command, program).format_help().rstrip()


def read_recipe(path: Path, cls: type) -> dict[str, Any]:
    """The fields of the dataclass `cls` that a flat YAML file sets, converted to their types.

    Raises UserError naming the file for what is missing, broken, unknown, double or of the wrong type.
    """
    options = {option.name: option for option in _fields(cls)}
    settings: dict[str, Any] = {}
    for key, value in _yaml_items(path):
        name = str(key).replace("-", "_")
        if name not in options:
            raise UserError(f'{path}: unknown key "{key}"{suggest(name, options)}')
        if name in settings:
            raise UserError(f'{path}: the key "{key}" is given twice')
        if str in _alternatives(options[name].kind) and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # 500 and 0.9 are texts too where a text is wanted, as on the command line
        settings[name] = _convert(options[name], value, f"{path}: {key}")
    return settings


def _fields(cls: type) -> tuple[Option, ...]:
    fields = [field for field in dataclasses.fields(cls) if field.init]
    kinds = typing.get_type_hints(cls)
    names = [field.name for field in fields]
    docs = [inspect.cleandoc(base.__doc__ or "") for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    texts = {name: text for doc in docs for name, text in option_texts(doc, names).items()}
    return tuple(Option(f.name, kinds[f.name], _default(f), texts.get(f.name, "")) for f in fields)


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


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


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints are UserErrors of one line."""

    def error(self, message: str) -> NoReturn:
        if match := re.fullmatch(r"the following arguments are required: (.*)", message):
            raise UserError(f"missing {match[1]}; see {self.prog} --help")
        if match := re.fullmatch(r"argument (\S+): expected one argument", message):
            raise UserError(f"{match[1]}: expected a value; one that begins with a dash is written {match[1]}=VALUE")
        if match := re.fullmatch(r"argument (\S+): ignored explicit argument (.*)", message):
            raise UserError(f"{match[1]}: takes no value, got {match[2]}")
        raise UserError(message)


def _complete(
    options: Iterable[Option], settings: Mapping[str, Any], flags: Mapping[str, Any], program: str
) -> dict[str, Any]:
    """A value for every option: the flag's, else the file's, else the default."""
    values = {}
    for option in options:
        if option.name in flags:
            values[option.name] = _from_flag(option, flags[option.name])
        else:
            values[option.name] = settings.get(option.name, option.default)
        if values[option.name] is MISSING:
            raise UserError(f"missing {option.flag}; see {program} --help")
    return values


def _from_flag(option: Option, value: Any) -> Any:
    if str in _alternatives(option.kind):
        return value  # text is taken as written: "null" and "1" too
    return _convert(option, value, option.name.upper() if option.positional else option.flag)


def _parser(command: Command, program: str) -> _Parser:
    """Splits a command line into texts; absent options stay absent, so that a recipe can speak for them."""
    parser = _Parser(
        prog=program,
        usage=" ".join([program, *(option.name.upper() for option in command.options if option.positional), "[--...]"]),
        description=command.summary,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
    )
    for option in command.options:
        _add(parser, option)
    for recipe in command.recipes:
        _add(parser, recipe.file)
        group = parser.add_argument_group(f"{recipe.name}, by flag or in the file given to {recipe.file.flag}")
        for option in recipe.options:
            _add(group, option)
    return parser


def _add(parser: "argparse._ActionsContainer", option: Option) -> None:
    text = _help(option).replace("%", "%%")
    if option.positional:
        parser.add_argument(option.name, metavar=option.name.upper(), help=text)
    elif option.kind is bool and option.pair:
        parser.add_argument(option.flag, action=argparse.BooleanOptionalAction, help=text)
    elif option.kind is bool:
        parser.add_argument(option.flag, action="store_true", help=text)
    else:
        action = "append" if option.many else "store"
        parser.add_argument(option.flag, action=action, metavar=_metavar(option.kind), help=text)


def _help(option: Option) -> str:
    notes = []
    if option.many:
        notes.append("repeat for more")
    if option.kind is bool and option.pair and option.default is not MISSING:
        notes.append(f"default: {'yes' if option.default else 'no'}")
    elif option.kind is not bool and option.default not in (MISSING, None):
        default = " ".join(map(str, option.default)) if option.many else str(option.default)
        notes += [f"default: {default}"] if default else []
    return f"{option.text} ({'; '.join(notes)})".strip() if notes else option.text


def _metavar(kind: Any) -> str:
    first = _alternatives(kind)[0]
    if get_origin(first) is Literal:
        return "{" + ",".join(map(str, get_args(first))) + "}"
    if get_origin(first) in (tuple, list):
        return _metavar(get_args(first)[0])
    return {int: "N", float: "X", Path: "PATH", str: "TEXT", bool: "true|false"}.get(first, "VALUE")


def _alternatives(kind: Any) -> list[Any]:
    """The members of a union without None; a type that is no union alone."""
    if get_origin(kind) in (types.UnionType, typing.Union):
        return [part for part in get_args(kind) if part is not types.NoneType]
    return [kind]


def _refuse_unknown_flags(command: Command, program: str, argv: Sequence[str]) -> None:
    """Before argparse, which would first complain of what the unknown flag swallowed."""
    known: set[str] = {"--help"}
    for option in command.all_options():
        if not option.positional:
            known.add(option.flag)
            if option.kind is bool and option.pair:
                known.add("--no-" + option.flag[2:])
    for argument in argv:
        flag = argument.split("=")[0]
        if flag == "--":
            return
        if flag.startswith("--") and flag not in known:
            hint = suggest("--" + flag[2:].replace("_", "-"), known)
            raise UserError(f'unknown option "{flag}"{hint or f"; see {program} --help"}')


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: '; did you mean "..."?' with the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _convert(option: Option, value: Any, where: str) -> Any:
    """`value` as the option's type. Raises UserError that begins with `where`."""
    from jsonargparse import ArgumentError

    if value == "" and Path in (option.kind, *get_args(option.kind)):
        raise UserError(f"{where}: expected a path, got nothing")
    try:
        return _converter(option.kind).parse_object({"value": value}).value
    except ArgumentError:
        bad = value[0] if option.many and isinstance(value, list) and len(value) == 1 else value
        shown = json.dumps(bad, ensure_ascii=False, default=str)
        raise UserError(f"{where}: expected {spelt(option.kind)}, got {shown}") from None


@functools.cache
def _converter(kind: Any) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    return parser


def _yaml_items(path: Path) -> list[tuple[Any, Any]]:
    """The pairs of a flat YAML file, doubles kept."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: bad byte at offset {error.start}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f'{path}:{node.start_mark.line + 1}: expected lines of the form "key: value"')
        build = yaml.SafeLoader("").construct_object
        return [(build(key, deep=True), build(value, deep=True)) for key, value in node.value]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
