"""Best of n and its relatives: what is kept, what that is worth, and files that other commands take."""

from pathlib import Path

from langwright.alignment.rewards import answered
from langwright.corpora.preferences import open_prompts


def test_prompts_keep_the_fields_of_their_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "2+2=", "tests": ["assert x"], "level": 3}\n'
        '{"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": "3+3"}], "completion": "6"}\n'
        '{"prompt": "2+2=", "level": 4}\n'
        '{"prompt": "so", "chosen": " good", "rejected": " bad"}\n'
    )
    first, second, third = (answered(item, "x") for item in open_prompts(str(tmp_path / "rows.jsonl")).items)
    assert (first.prompt, first.row["level"], first.row["tests"]) == ("2+2=", 3, ["assert x"])
    assert (second.prompt, second.row["answer"], second.where) == ("3+3", "6", f"{tmp_path / 'rows.jsonl'}:2")
    assert second.asked == ({"role": "system", "content": "Add."}, {"role": "user", "content": "3+3"})
    assert (third.prompt, third.row["chosen"]) == ("so", " good")
