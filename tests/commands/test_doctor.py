"""doctor says which kernels run, and why."""

import json
from collections.abc import Callable

import pytest

from langwright.parts import native


def test_it_tells_of_the_machine_and_its_kernels(prints: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(prints("doctor", "--json"))
    assert found["threads"] == 1
    assert found["read_bandwidth"] > 10**8
    assert found["kernels"].startswith("native" if native.native().library else "pytorch")
    monkeypatch.setenv("PATH", "")
    native.native.cache_clear()
    try:
        shown = prints("doctor")
    finally:
        native.native.cache_clear()
    assert "pytorch (no compiler" in shown
    assert "GB/s" in shown
