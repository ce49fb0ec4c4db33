"""Every verb of the table leads to a command that the command line can express."""

import importlib

import pytest

from langwright.base.arguments import help_text, read_signature
from langwright.cli import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_command_with_help_for_each_option(verb: str) -> None:
    module, name = VERBS[verb][0].split(":")
    command = read_signature(getattr(importlib.import_module(module), name))
    assert command.summary
    assert help_text(command, f"langwright {verb}").startswith(f"usage: langwright {verb} ")
    assert [option.name for option in command.all_options() if not option.text] == []
