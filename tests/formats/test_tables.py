"""The tables of docs/formats.md say what the code does and what the files hold."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from langwright.commands.demo import _summary
from langwright.commands.finetune import TuningRecipe
from langwright.models.families import FAMILIES
from langwright.models.family import DEFAULT_ONLY
from langwright.training.recipe import FREE, PretrainRecipe

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8").splitlines()
TUNED_ONLY = "`finetune` only: "


def table(header: str, section: str = "# Formats") -> dict[str, list[str]]:
    """The rows of the first table with this header in a section: its first cell without quotes, and the other cells."""
    rows = {}
    for line in PAGE[PAGE.index(header, PAGE.index(section)) + 2 :]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        rows[first.strip("`")] = rest
    return rows


def columns(header: str) -> dict[str, dict[str, Any]]:
    """The columns of a table of JSON values, by the names in its header; `-` is no value."""
    rows = table(header)
    names = [cell.strip(" `") for cell in header.strip("|").split("|")][1:]
    return {
        name: {row: json.loads(cells[i]) for row, cells in rows.items() if cells[i] != "-"}
        for i, name in enumerate(names)
        if name != "meaning"
    }


def defaults(cls: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(cls)}


def test_families() -> None:
    rows = table("| `model_type` | `architectures` |")
    assert {name: cells[0].strip("`") for name, cells in rows.items()} == {
        family.model_type: family.architecture for family in FAMILIES.values()
    }


def test_heads() -> None:
    rows = table("| `architectures` | `model_type` | head |")
    assert {name: tuple(cell.strip("`") for cell in cells) for name, cells in rows.items()} == {
        head.architecture: (family.model_type, task)
        for family in FAMILIES.values()
        for task, head in family.heads.items()
    }


def test_honoured_fields_and_what_holds_without_them() -> None:
    headers = [line for line in PAGE if any(line.startswith(f"| field | `{name}` |") for name in FAMILIES)]
    documented = {name: values for header in headers for name, values in columns(header).items()}
    assert documented == {
        name: {
            field: value
            for field, value in {**defaults(family.config), **family.defaults}.items()
            if field not in family.absent
        }
        for name, family in FAMILIES.items()
    }


def test_fields_with_one_value() -> None:
    assert columns("| field | value |")["value"] == DEFAULT_ONLY
    sentence = " ".join(PAGE)
    for family in FAMILIES.values():
        for field, value in family.default_only.items():
            assert f"`{field}` {json.dumps(value)}" in sentence


def test_recipes() -> None:
    documented = columns("| field | `pretrain` | `finetune` | meaning |")
    assert documented == {"pretrain": defaults(PretrainRecipe), "finetune": defaults(TuningRecipe)}


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_the_record_of_a_run(command: str, trained: Path, tuned: Path) -> None:
    record = json.loads(((trained if command == "pretrain" else tuned) / "langwright.json").read_text())
    rows = table("| entry | type | meaning |", section="### langwright.json")
    kinds = {"number": (int, float), "text": str, "object": dict, "list": list}
    wanted = {name for name, cells in rows.items() if command == "finetune" or not cells[1].startswith(TUNED_ONLY)}
    assert set(record) == wanted
    assert all(isinstance(record[name], kinds[rows[name][0]]) for name in record)  # type: ignore[arg-type]


def test_the_state_of_a_checkpoint(trained: Path) -> None:
    state = json.loads((trained / "checkpoints/step-00000003/state.json").read_text())
    assert set(state) == set(table("| entry of `state.json` | type | meaning |"))
    recipe = {field.name for field in dataclasses.fields(PretrainRecipe)} - set(FREE)
    assert set(state["identity"]) == {"command", "corpus", "tokenizer_fingerprint", "threads", *recipe}
    files = {path.name for path in (trained / "checkpoints/step-00000003").iterdir()}
    assert files == {*state["checksums"], "state.json"}
    assert files == set(table("| file | content |", section="## The training checkpoint"))


def test_the_files_of_a_model_folder(trained: Path) -> None:
    record = json.loads((trained / "langwright.json").read_text())
    assert {*record["checksums"], "langwright.json"} == set(table("| file | content |", section="## The model folder"))


def test_rows_of_metrics(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    documented = table("| entry | in rows of | meaning |")
    in_rows = {
        kind: {name for name, cells in documented.items() if kind in cells[0] or cells[0] == "all"}
        for kind in ("training", "evaluation", "last")
    }
    kinds = ["training", "training", "evaluation", "training", "last"]
    assert [set(row) for row in rows] == [in_rows[kind] for kind in kinds]
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 3]


def test_the_numbers_of_the_demo(tuned: Path) -> None:
    summary = _summary(tuned.parent, {}, {"pass": []}, {}, 1.0)
    assert set(summary) == set(table("| entry | meaning |"))


def test_every_family_is_in_the_table_of_architecture() -> None:
    """With the file that holds it."""
    root = Path(__file__).parents[2]
    found = {}
    for line in (root / "docs/add-a-family.md").read_text(encoding="utf-8").splitlines():
        row = re.fullmatch(r"\| `(\S+)` \| .* \| \[\S+\]\(\.\./(src/langwright/models/\S+\.py)\) \|", line)
        if row is not None:
            found[row[1]] = root / row[2]
    assert found.keys() == FAMILIES.keys()
    for name, path in found.items():
        assert f'"{name}"' in path.read_text(encoding="utf-8")
