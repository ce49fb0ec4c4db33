"""The type check that the tests put around every annotated function (see conftest.py).

As in PEP 484, and as mypy does, an int is welcome where a float is asked for.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
