"""What `make mutants` mutates and leaves out exists, and a tiny project shows that it tells noticed from unnoticed."""

from pathlib import Path

import pytest

import mutants
from mutants import ROOMS, Room


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_fit_the_project(name: str) -> None:
    room = ROOMS[name]
    assert all(list((mutants.ROOT / "src/langwright").glob(file)) for file in room.files)
    assert all((mutants.ROOT / test).exists() for test in room.tests)
    for function in room.left_out:
        holder, attribute = mutants.resolve(function)
        assert callable(getattr(holder, attribute))


def test_survivors_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in mutants.LINKS:
        path = tmp_path / name
        path.touch() if path.suffix else path.mkdir()
    (tmp_path / "src/langwright").mkdir()
    (tmp_path / "src/langwright/__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['src']\n")
    (tmp_path / "src/langwright/half.py").write_text(
        "def half(n):\n    return n // 2\n\n\ndef announce():\n    half(1)\n"
    )
    (tmp_path / "tests/test_half.py").write_text(
        "from langwright.half import half\n\n\ndef test():\n    assert half(4) == 2\n"
    )
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    room = Room(("half.py",), ("tests",))
    mutants.prepare(tmp_path / ".mutants/half", room)
    mutants.mutate(tmp_path / ".mutants/half", seconds=60)
    report = mutants.summary(tmp_path / ".mutants/half")
    assert "+    return n / 2" in report
    assert "+    return n // 3" not in report
    assert report.endswith("1 of 4 mutants noticed; 0 not tried yet")
    assert mutants.left_out("langwright.half:half", room)
    assert not mutants.left_out("langwright.half:announce", room)
