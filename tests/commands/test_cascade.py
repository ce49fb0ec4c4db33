"""langwright cascade: fitted on rows, run on prompts, within a budget; routers too."""

import json
from pathlib import Path
from typing import Any

import pytest

from langwright import Sampling, load_model, load_tokenizer
from langwright.inference.generate import complete
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.pipelines.cascade import Asking, Costs, Settings, open_cascade, save_cascade
from langwright.pipelines.scorers import Scorer
from langwright.text.training import raw_bytes
from oracles import perturb
from refusals import Fails, Prints

SHORT = ["--max-new-tokens", "4"]
CLASSIFIER = ["--classifier", "cnn", "--classifier-steps", "80"]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two models, and rows of which the first answers those right that are called easy, the second the others."""
    root, tokenizer = tmp_path_factory.mktemp("ladder"), raw_bytes()
    folders = root / "small", root / "large"
    for depth, folder in enumerate(folders, start=1):
        model = new_model("llama", by_depth("llama", depth, tokenizer.vocab_size, 64, 0.0))
        perturb(model, seed=depth)
        save_model(model, tokenizer, folder)
    prompts = [f"{('easy', 'hard')[n % 3 == 0]} {n}" for n in range(90)]
    answers = [
        complete(load_model(folder), load_tokenizer(folder), prompts, Sampling(temperature=0), 4) for folder in folders
    ]
    lines = [
        {"prompt": prompt, "completion": answers[prompt.startswith("hard")][n].text} for n, prompt in enumerate(prompts)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return *folders, root / "rows.jsonl"


def fitted(prints: Prints, ladder: tuple[Path, Path, Path], out: Path, *more: str) -> Any:
    small, large, rows = ladder
    given = [
        "--model",
        large,
        "--model",
        small,
        "--cost",
        "price",
        "--price",
        "8:8",
        "--price",
        "1:1",
        *SHORT,
        "--json",
    ]
    return json.loads(prints("cascade", "fit", rows, out, *given, *more))


@pytest.mark.parametrize("scorer", ["quantile", "agreement"])
def test_a_cascade_keeps_its_budget_and_says_what_it_spent(
    scorer: str, ladder: tuple[Path, Path, Path], tmp_path: Path, prints: Prints
) -> None:
    more = ["--samples", "2"] if scorer == "agreement" else []
    told = fitted(prints, ladder, tmp_path / "all", "--scorer", scorer, *more)
    singles = told["report"]["singles"]
    assert singles[1][0] > singles[0][0]  # the small one is right more often, for less
    assert singles[1][1] < singles[0][1] / 4
    assert all(point["policy"]["cost"] <= singles[0][1] + singles[1][1] + 1e-9 for point in told["report"]["points"])
    # Means are of the rows that thresholds are fitted on, and not of those that measure.
    record, cheapest = json.loads((tmp_path / "all/cascade.json").read_text()), told["report"]["points"][0]["policy"]
    assert cheapest["chain"] == [1]
    assert record["mean_costs"][1] == pytest.approx(cheapest["cost"])
    answers = prints("cascade", "run", tmp_path / "all", "--prompt", "easy 1", "--prompt", "hard 3", "--json")
    for row in map(json.loads, answers.splitlines()):
        assert row["cost"] == pytest.approx(sum(stage["cost"] for stage in row["stages"]))
        assert row["stage"] == len(row["stages"])
        for stage in row["stages"]:
            assert stage["tokens_read"] >= 6
            assert stage["seconds"] > 0
            rate = 8 if stage["model"] == str(ladder[1]) else 1
            assert stage["price"] == pytest.approx(rate * (stage["tokens_read"] + stage["tokens_written"]) / 1e6)


def test_a_learned_scorer_and_a_router_know_the_rows_apart(
    ladder: tuple[Path, Path, Path], tmp_path: Path, prints: Prints, fails: Fails
) -> None:
    told = fitted(prints, ladder, tmp_path / "learned", "--scorer", "learned", *CLASSIFIER)
    best = max(told["report"]["points"], key=lambda point: point["accuracy"])
    assert best["accuracy"] > max(accuracy for accuracy, _ in told["report"]["singles"]) + 0.1
    assert told["report"]["rows"]["learn"] > 30
    routed = fitted(prints, ladder, tmp_path / "routed", "--kind", "router", *CLASSIFIER)
    assert routed["report"]["points"][0]["accuracy"] > 0.9
    for prompt, model in (("easy 500", ladder[0]), ("hard 501", ladder[1])):
        row = json.loads(prints("cascade", "run", tmp_path / "routed", "--prompt", prompt, "--json"))
        assert (row["model"], row["stage"]) == (str(model), 1)
    # The dear model is not asked where the limit forbids it.
    free = json.loads(prints("cascade", "run", tmp_path / "learned", "--prompt", "hard 501", "--json"))
    assert len(free["stages"]) == 2
    bound = json.loads(
        prints("cascade", "run", tmp_path / "learned", "--prompt", "hard 501", "--limit", "2e-5", "--json")
    )
    assert (len(bound["stages"]), bound["limited"]) == (1, True)
    # Nor is the cheap one: 8 tokens and the 4 that it may write cost more.
    fails("cascade", "run", tmp_path / "learned", "--prompt", "hard 501", "--limit", "1.1e-5", names="--limit")
    for name in ("learned", "routed"):  # in seconds the classifier counts, and what exceeds the limit is told
        path = tmp_path / name / "cascade.json"
        record = json.loads(path.read_text())
        record["costs"]["cost"], record["mean_costs"] = "seconds", [0, 0]
        path.write_text(json.dumps(record))
        given = ["--prompt", "hard 501", "--limit", "0.01" if name == "routed" else "1e-9", "--json"]
        row = json.loads(prints("cascade", "run", tmp_path / name, *given))
        assert row["stages"][0]["cost"] > row["stages"][0]["seconds"]
        assert row["limited"]


def test_a_folder_finds_its_models_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = Settings("router", ("small", "hf:owner/name"), Scorer(), Costs(), Asking(), mean_costs=(1, 1))
    save_cascade(Path("made/out"), settings)
    Path("made/out/classifier").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    opened = open_cascade(Path("../made/out"), lambda _: pytest.fail("no model is asked"))
    assert opened.settings.models == (str((tmp_path / "small").resolve()), "hf:owner/name")


def test_bad_input_ends_in_one_line(ladder: tuple[Path, Path, Path], tmp_path: Path, fails: Fails) -> None:
    small, large, rows = ladder
    both = ["--model", small, "--model", large]
    fails("cascade", "fit", rows, tmp_path / "out", "--model", small, names="--model")
    fails("cascade", "fit", rows, *both, names="OUT")
    fails("cascade", "fit", rows, tmp_path / "out", *both, "--cost", "price", names="--price")
    fails(
        "cascade", "fit", rows, tmp_path / "out", *both, *SHORT, "--cost", "tokens", "--budget", "1", names="--budget"
    )
    fit, run = ["cascade", "fit", rows, tmp_path / "out", *both], ["cascade", "run", tmp_path, "--prompt", "a"]
    for flag, value in (("--prompt", "a"), ("--prompts", rows), ("--limit", "1"), ("--classifier", "cnn")):
        fails(*fit, flag, value, names=flag)
    fails(*fit, "--classifier-steps", "9", names="--classifier-steps")
    for flag, value in (("--budget", "1"), ("--scorer", "margin")):
        fails(*fit, "--kind", "router", flag, value, names=flag)
        fails(*run, flag, value, names=flag)
    for flag, value in (("--kind", "cascade"), ("--cost", "tokens"), ("--max-new-tokens", "4"), ("--text-field", "b")):
        fails(*run, flag, value, names=flag)
    for value in ("nan", "-1"):
        fails(*fit, "--budget", value, names="--budget")
        fails(*run, "--limit", value, names="--limit")
    fails("cascade", "run", tmp_path / "nowhere", "--prompt", "a", names="nowhere")
    fails("cascade", "run", small, names="--prompt")
    (tmp_path / "cascade.json").write_text('{"format_version": 2, "models": ["a"], "kind": "cascade"}')
    fails("cascade", "run", tmp_path, "--prompt", "a", names="cascade.json")
