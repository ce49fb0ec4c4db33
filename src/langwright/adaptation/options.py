"""The options of methods: a recipe gets them from the methods' dataclasses, and makes the methods of them."""

from collections.abc import Callable
from dataclasses import Field, field, fields, make_dataclass
from inspect import cleandoc
from typing import Any, Literal, TypeVar, get_type_hints

from langwright.adaptation.attachment_points import Targets, read_names, read_targets
from langwright.adaptation.method import Method
from langwright.adaptation.methods import METHODS
from langwright.base.arguments import option_texts
from langwright.base.errors import UserError

Recipe = TypeVar("Recipe")


OPTIONS: dict[str, dict[str, Field[Any]]] = {}
"""By the name of an option, the fields that it sets, by the name of their method."""
for _name, _method in METHODS.items():
    for _field in fields(_method):  # type: ignore[arg-type]
        if _field.metadata.get("option"):
            OPTIONS.setdefault(_field.metadata["option"], {})[_name] = _field
TEXTS: dict[Any, Callable[[Any], Any]] = {Targets | None: read_targets, tuple[str, ...]: read_names}
"""The types of settings that an option gives as text, and what reads them."""


def with_methods(recipe: type[Recipe]) -> type[Recipe]:
    """A recipe with a field that chooses a method, and the options of all methods; a decorator.

    The field is called `method`, or as the recipe's `method_field` says. An option has the default that its methods
    agree on, else None: then each method has its own. One that the recipe has a field for means that where no method
    has it.
    """
    chooser = method_field(recipe)
    made: list[tuple[str, Any, Any]] = [(chooser, Literal["full", *METHODS], field(default="full"))]
    others = " ".join(f"{name}: {cleandoc(method.__doc__ or '').splitlines()[0]}" for name, method in METHODS.items())
    docs = [f"{chooser}: full trains every parameter and writes a model; the others an adapter folder. {others}"]
    for option, users in OPTIONS.items():
        name, each = next(iter(users.items()))
        kinds = get_type_hints(METHODS[name])
        kind = str | None if kinds[each.name] in TEXTS else kinds[each.name]
        defaults = [None if kinds[each.name] in TEXTS else user.default for user in users.values()]
        agreed = defaults[0] if all(default == defaults[0] for default in defaults) else None
        own = option in getattr(recipe, "__dataclass_fields__", ())
        if not own:
            made.append((option, kind if agreed is not None else kind | None, field(default=agreed)))
        text = option_texts(cleandoc(METHODS[name].__doc__ or ""), kinds)[each.name]
        docs.append(f"{option}: {'of a new model; ' * own}for {', '.join(users)}: {text}")
    doc = "\n".join(docs)
    return make_dataclass(recipe.__name__, made, bases=(recipe,), frozen=True, namespace={"__doc__": doc})


def method_field(recipe: Any) -> str:
    """The field of a recipe that chooses a method."""
    return str(getattr(recipe, "method_field", "method"))


def options_of(recipe: Any) -> set[str]:
    """The options that the method of a recipe has."""
    chosen = getattr(recipe, method_field(recipe))
    return {option for option, users in OPTIONS.items() if chosen in users}


def method_of(recipe: Any) -> Method | None:
    """The method that a recipe asks for; None for full tuning. UserError for an option that another method has."""
    defaults, settings = {each.name: each.default for each in fields(recipe)}, {}
    chooser = method_field(recipe)
    chosen = getattr(recipe, chooser)
    for option, users in OPTIONS.items():
        value, flag = getattr(recipe, option), f"--{option.replace('_', '-')}"
        own = any(option in vars(base).get("__annotations__", ()) for base in type(recipe).__mro__[1:])
        if value == defaults[option] or (own and chosen not in users):
            continue
        if chosen not in users:
            raise UserError(f"{flag} goes with --{chooser} {' or '.join(users)}, not with {chosen}")
        setting = users[chosen].name
        read = TEXTS.get(get_type_hints(METHODS[chosen])[setting], lambda value: value)
        try:
            settings[setting] = read(value)
        except UserError as error:
            raise UserError(f"{flag} {error}") from None
    return None if chosen == "full" else METHODS[chosen](**settings)
