"""Every verb of the table leads to a command that the command line can express."""

import importlib

import pytest

from langwright.base.arguments import SHOWN, Command
from langwright.cli import USUAL, VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_command_with_help_for_each_option(verb: str) -> None:
    module, name = VERBS[verb][0].split(":")
    command = Command(getattr(importlib.import_module(module), name), f"langwright {verb}", USUAL.get(verb, "").split())
    assert f"langwright {verb} " in command.help()
    assert [option.name for option in command.options if not option.text] == []
    assert set(command.usual) <= {option.name for option in command.options if not option.positional}
    assert len(command.usual) <= SHOWN
