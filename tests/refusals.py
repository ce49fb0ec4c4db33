"""How refusals are tested: by what they name (a file, a field, a flag, a value), never by their wording."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from langwright.base.errors import UserError

Prints = Callable[..., str]
Fails = Callable[..., None]
"""What the fixtures `prints` and `fails` of conftest.py give."""


@contextmanager
def refused(*names: object) -> Iterator[None]:
    """What is done inside ends in a UserError that holds each of these names."""
    with pytest.raises(UserError) as caught:
        yield
    assert all(str(name) in str(caught.value) for name in names), caught.value
