"""PPO, GRPO, RLOO and REINFORCE from the command line: killed and resumed, and what they refuse."""

import json
from pathlib import Path

import pytest

from processes import kills_itself, survives_kills
from refusals import Fails, Prints

METHODS = {
    "ppo": ["--passes", "2", "--mini-batches", "2", "--value-model", "model", "--kl-target", "1", "--kl-horizon", "50"],
    "grpo": ["--adapter", "lora", "--micro-batch", "3"],
    "rloo": ["--adapter", "lora", "--bits", "int8", "--temperature", "0.8"],
    "reinforce": ["--missing-stop", "1", "--gold", "length"],
    "expert-iteration": ["--share", "0.3", "--passes", "2"],
}
TINY = ["--reward", "regex:[a-z]", "--batch-size", "2", "--group", "4", "--max-new-tokens", "6", "--dtype", "float32"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"One cat {n}"}) + "\n" for n in range(20)))
    return path


@pytest.mark.parametrize("name", METHODS)
def test_killed_and_run_again_it_ends_with_the_same_bytes(
    name: str, untrained: Path, prompts: Path, tmp_path: Path
) -> None:
    def command(out: str) -> list[str]:
        paths = [str(untrained), str(prompts), str(tmp_path / out)]
        return ["align", *paths, "--method", name, *TINY, *METHODS[name], "--steps", "7", "--save-every", "2"]

    record = survives_kills(command, tmp_path, [3])
    rows = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 8))
    assert {"reward", "kl", "entropy", "clip_share", "length", "mismatch"} <= steps[0].keys()
    assert ("gold" in steps[0]) == (name == "reinforce")
    assert steps[0]["kl"] == 0
    if name == "expert-iteration":
        assert {(row["kl_weight"], row["kept"]) for row in steps} == {(0, 0.25)}  # 2 of 8, which is near 0.3
    assert max(row["mismatch"] for row in steps) < 1e-3
    assert {"reward", "kl", "rows"} <= record["held_out"].keys()
    assert {"prompt", "before", "after"} <= record["answers"][0].keys()
    assert "Before and after" in (tmp_path / "killed" / "report.html").read_text()


DEADLY = """
import os, pathlib, signal

armed, calls = pathlib.Path(__file__).with_name("armed"), [0]

def reward(prompt, answer):
    calls[0] += 1
    if calls[0] == 8 * 4 + 3 and armed.exists():  # the third answer of the fifth rollout
        armed.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(len(answer))
"""


def test_killed_in_the_middle_of_a_rollout(
    untrained: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(out: str) -> list[str]:
        flags = [*TINY, "--reward", "deadly:reward", "--adapter", "lora", "--steps", "6", "--save-every", "3"]
        return ["align", str(untrained), str(prompts), str(tmp_path / out), "--method", "grpo", *flags]

    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "armed").touch()
    kills_itself(command("killed"))
    assert steps(tmp_path / "killed") == [1, 2, 3, 4]
    survives_kills(command, tmp_path, [])
    assert steps(tmp_path / "killed") == [1, 2, 3, 4, 5, 6]


def steps(out: Path) -> list[int]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "loss" in row]


def test_what_is_refused(untrained: Path, prompts: Path, tmp_path: Path, fails: Fails) -> None:
    def refuses(flags: list[str], *names: str) -> None:
        fails("align", untrained, prompts, tmp_path / "out", "--method", *flags, names=names)

    refuses(["ppo"], "--reward")
    refuses(["grpo", *TINY, "--group", "1"], "--group 1")
    refuses(["rloo", *TINY, "--group", "1"], "--group 1")
    refuses(["reinforce", *TINY, "--group", "1", "--batch-size", "1"], "--batch-size 1")
    refuses(["ppo", *TINY, "--compile"], "--compile")
    refuses(["ppo", *TINY, "--mini-batches", "3"], "--mini-batches 3")
    refuses(["ppo", *TINY, "--scale-rewards", "none"], "--scale-rewards none", "grpo")
    refuses(["grpo", *TINY, "--gae", "0.5"], "--gae 0.5", "ppo")
    refuses(["dpo", "--kl", "0.1"], "--kl 0.1")
    refuses(["ppo", *TINY, "--kl", "-1"], "--kl -1")
    refuses(["reinforce", *TINY, "--ratio-clip", "0.3"], "--ratio-clip 0.3", "ppo", "grpo", "rloo")
    refuses(["reinforce", *TINY, "--ratio-clip-high", "0.3"], "--ratio-clip-high 0.3")
    refuses(["reinforce", *TINY, "--passes", "2"], "--passes 2")
    refuses(["reinforce", *TINY, "--mini-batches", "2"], "--mini-batches 2")
    refuses(["ppo", *TINY, "--kl-target", "6", "--kl-horizon", "7"], "--kl-horizon 7", "8")
    refuses(["ppo", *TINY, "--kl-horizon", "500"], "--kl-horizon", "--kl-target")
    refuses(["rloo", *TINY, "--kl-target", "6", "--kl", "0"], "--kl 0", "--kl-target")
    refuses(["ppo", *TINY, "--max-new-tokens", "250"], "prompts.jsonl:1", "--max-new-tokens")
    refuses(["ppo", *TINY, "--reward", "nowhere:reward"], "nowhere")
    refuses(["expert-iteration", *TINY, "--kl", "0.1"], "--kl 0.1")
    refuses(["expert-iteration", *TINY, "--share", "0.1", "--threshold", "1"], "--share 0.1", "--threshold")
    refuses(["grpo", *TINY, "--share", "0.1"], "--share 0.1", "best-of-n")
    refuses(["best-of-n", "--group", "4"], "--reward")
    refuses(["best-of-n", "--reward", "parses", "--learning-rate", "0.1"], "--learning-rate 0.1")
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_best_of_n_leaves_files_that_other_commands_take(
    untrained: Path, prompts: Path, tmp_path: Path, prints: Prints, fails: Fails
) -> None:
    out, asked = tmp_path / "out", ["--method", "best-of-n", "--reward", "regex:[a-z]", "--max-new-tokens", "6"]
    told = json.loads(prints("align", untrained, prompts, out, *asked, "--json"))
    assert (told["n"], told["prompts"], told["curve"][-1]["n"]) == (8, 20, 8)
    assert told["curve"][-1]["reward"] == told["kept_reward"] > told["reward"]
    assert "best of 8" in prints("align", untrained, prompts, out, *asked)  # nothing is written again
    fails("align", untrained, prompts, out, *asked, "--seed", "1", names=(str(out), "seed"))
    second = [tmp_path / "second", *asked, "--gold", "2*regex:[a-z]"]  # what the second reward says of the same choice
    told = json.loads(prints("align", untrained, prompts, *second, "--json"))
    assert told["gold"] == pytest.approx(2 * told["reward"])
    assert [point["gold"] for point in told["curve"]] == pytest.approx([2 * point["reward"] for point in told["curve"]])
    fails("align", untrained, prompts, *second[:-1], "length", names=("second", "gold"))
    prints("finetune", untrained, out / "best.jsonl", tmp_path / "tuned", "--task", "text", "--steps", "2 steps")
    prints("align", untrained, out / "pairs.jsonl", tmp_path / "aligned", "--method", "dpo", "--steps", "2 steps")


def test_a_reward_that_changed_is_noticed(
    untrained: Path, prompts: Path, tmp_path: Path, prints: Prints, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module, spec = tmp_path / "rewards_that_change.py", "0.5*rewards_that_change:reward+1*parses"
    module.write_text("def reward(prompt, answer):\n    return len(answer)\n")
    asked = ["--reward", spec, "--group", "4", "--max-new-tokens", "6", "--dtype", "float32"]
    learns = ["align", untrained, prompts, tmp_path / "policy", "--method", "rloo", *asked, "--batch-size", "2"]
    draws = ["align", untrained, prompts, tmp_path / "best", "--method", "best-of-n", *asked]
    prints(*learns, "--steps", "1 steps")
    prints(*draws)
    for flag, value in (("--context", "64"), ("--template", "zephyr")):
        fails(*draws, flag, value, names=("best", flag[2:]))
    module.write_text("def reward(prompt, answer):\n    return -len(answer)\n")
    fails(*learns, "--steps", "2 steps", "--extend", names=("policy", "reward_contents", spec))
    fails(*draws, names=("best", "reward_contents"))
