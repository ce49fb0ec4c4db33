"""Files of version 1 of every format open for ever, and mean what they meant when they were written.

The values below were read from the files on the day they were made (by make_v1.py, which lies in the history). A test
that fails here says that users can no longer open what they have: mend the code, never the file and never the value.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import langwright
from langwright.adaptation.method import Method
from langwright.adaptation.methods.lora import LoRA
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.base.arguments import read_recipe
from langwright.base.errors import UserError
from langwright.base.files import sha256_file, write_json
from langwright.corpora.opening import open_corpus
from langwright.data.order import Layout
from langwright.data.shards import open_shard
from langwright.data.supply import Batches, evaluation_batches
from langwright.data.windows import Windows
from langwright.models.weights import write_tensors
from langwright.objectives.language import TokenPrediction
from langwright.training.checkpoints import Checkpoints
from langwright.training.learner import Learner
from langwright.training.loop import Hooks, Run
from langwright.training.progress import Progress
from langwright.training.recipe import FinetuneRecipe, PretrainRecipe
from tiny import RECIPE, TinyBatches, same, tiny_model, tiny_run, weights

V1 = Path(__file__).parents[1] / "fixtures" / "formats-v1"

TEXT = "One café dog 🐟\n"
TOKENS = {
    "gpt2": [266, 261, 72, 130, 105, 273, 223, 175, 256, 241, 256, 201],
    "qwen3": [263, 275, 268, 260, 266, 265, 269, 282, 260, 267, 276, 270, 260, 243, 162, 147, 162, 259],
}
LOGITS = {  # of the first four tokens of the vocabulary after bos and each of the first seven of TEXT
    "gpt2": [
        [-0.454521, 0.382706, -0.450524, -0.04866],
        [-1.351358, -0.12727, -1.40559, -2.2423],
        [-0.209353, 0.336489, -0.273422, 0.037852],
        [0.131489, 0.166798, -0.33618, -0.374],
        [-0.763959, 0.763828, -0.377171, -0.873126],
        [-0.309027, 0.141111, -0.547609, -1.295714],
        [-1.28924, 0.290087, -0.718614, -0.424654],
        [-1.18436, 0.405078, -0.618653, -0.862294],
    ],
    "qwen3": [
        [-1.733461, 2.090372, -0.957175, 0.055165],
        [-1.232588, 1.1384, -0.483648, -0.510725],
        [-0.463825, -0.522965, 0.359103, -0.792945],
        [-0.727136, 0.069225, 0.339156, -0.486395],
        [-0.653235, 0.49184, -0.480517, 0.637368],
        [-0.93971, -0.90788, 1.307, -0.218714],
        [0.894712, 0.359655, -0.874202, 0.022408],
        [-1.287996, -0.24077, -0.884578, -0.227774],
    ],
}
LOG_Z = {  # log of the softmax's denominator at the same places, to which the whole vocabulary contributes
    "gpt2": [5.850204, 6.194735, 5.827772, 5.829031, 6.047774, 5.809812, 5.92451, 5.911219],
    "qwen3": [6.45504, 6.293498, 6.069521, 6.12224, 6.369617, 6.253785, 6.282041, 6.19589],
}
NEAR = 1e-5

DOCUMENTS = [
    [0, 54, 74, 71, 273, 223, 85, 67, 89, 259, 265, 14, 259, 274, 259, 80, 70, 259, 261, 72, 130, 105, 16, 1],
    [0, 266, 273, 264, 223, 80, 81, 86, 268, 80, 73, 16, 1],
    [0, 266, 265, 264, 259, 274, 16, 201, 266, 265, 264, 259, 260, 268, 69, 77, 71, 80, 16, 1],
    [0, 266, 223, 89, 71, 75, 84, 70, 265, 264, 259, 223, 74, 87, 79, 67, 80, 16, 201, 1],
]
WINDOWS = [8, 3, 1, 4, 2, 5, 10, 0, 7, 6, 9, 8, 3, 1, 4, 6]
"""The order of 11 windows under seed 3: one epoch, and the beginning of the next."""

FIRST_BATCH = [
    [0, 266, 223, 89, 71, 75, 84, 70],
    [0, 266, 273, 264, 223, 80, 81, 86],
    [89, 259, 265, 14, 259, 274, 259, 80],
    [223, 80, 81, 86, 268, 80, 73, 16],
]
LOSSES = [6.039038, 5.656658, 5.606392, 5.566444, 5.457644, 5.490448]
"""Of the six steps; three before the checkpoint, three after it."""


@pytest.mark.parametrize("family", TOKENS)
def test_a_model_folder_gives_the_logits_it_gave(family: str) -> None:
    model, tokenizer = langwright.load_model(V1 / family), langwright.load_tokenizer(V1 / family)
    assert model.family == family
    ids = tokenizer.encode(TEXT)
    assert ids == TOKENS[family]
    assert tokenizer.decode(ids) == TEXT
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2)
    with torch.no_grad():
        logits = model(torch.tensor([[0, *ids[:7]]]))[0]
    torch.testing.assert_close(logits[:, :4], torch.tensor(LOGITS[family]), rtol=0, atol=NEAR)
    torch.testing.assert_close(logits.logsumexp(-1), torch.tensor(LOG_Z[family]), rtol=0, atol=NEAR)


@pytest.mark.parametrize("family", TOKENS)
def test_the_record_of_a_model_folder(family: str) -> None:
    record = json.loads((V1 / family / "langwright.json").read_text())
    assert record["format_version"] == 1
    assert {name: sha256_file(V1 / family / name) for name in record["checksums"]} == record["checksums"]
    assert set(record["checksums"]) | {"langwright.json"} == {path.name for path in (V1 / family).iterdir()}
    if family == "gpt2":
        assert (record["corpus"], record["recipe"]) == ({"name": "fixture"}, {"seed": 3})


def test_a_corpus_is_recorded_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(V1)
    assert open_corpus("corpus").record() == {
        "name": "corpus",
        "kind": "files",
        "files": 2,
        "documents": 4,
        "characters": 126,
        "bytes": 127,
        "hash": "1e15a754f999a491fb555ed4eaff034888ccd1b70a12a07cd60b53e5c87b8a98",
    }


def test_a_token_shard_holds_what_it_held() -> None:
    tokens = open_shard(V1 / "corpus.tokens", verify=True)
    assert [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)] == DOCUMENTS
    assert tokens.bytes.tolist() == [38, 20, 42, 27]
    assert tokens.digest == "e0fd6d27d779ea96834ceafd770d31b82807f7d06c49ba577b109e183215df16"
    assert tokens.tokenizer == langwright.load_tokenizer(V1 / "gpt2").fingerprint()


def test_windows_come_in_the_order_they_came_in() -> None:
    windows = Windows(open_shard(V1 / "corpus.tokens"), 8)
    in_text = [row for batch in evaluation_batches(windows, 11) for row in batch.ids.tolist()]
    in_training = [Batches(windows, Layout(1, 3)).batch(step).ids[0].tolist() for step in range(16)]
    assert [in_text.index(row) for row in in_training] == WINDOWS
    batch = Batches(windows, Layout(4, 3)).batch(0)
    assert batch.ids.tolist() == FIRST_BATCH


def test_a_checkpoint_is_continued(tmp_path: Path) -> None:
    shutil.copytree(V1 / "run", tmp_path / "run")
    events: list[object] = []
    run = _run(tmp_path / "run", IDENTITY, Hooks(on_event=events.append))
    assert run.resume()
    assert events == [{"step": 3, "event": "resumed"}]
    assert (run.progress.step, run.progress.tokens, run.progress.history) == (3, 96, events)
    assert torch.randint(0, 1 << 30, (4,)).tolist() == [303761048, 386328195, 521102280, 297689877]
    norm = run.learner.masters.named["body.final_norm.weight"].detach()
    memory = {key: value for key, value in run.learner.tensors().items() if key.startswith("body.final_norm.weight/")}
    assert float(memory["body.final_norm.weight/step"]) == 3
    torch.testing.assert_close(norm[:3], torch.tensor([0.462584, 1.403352, 1.151512]), rtol=0, atol=NEAR)
    average, square = (memory[f"body.final_norm.weight/{name}"][:3] for name in ("exp_avg", "exp_avg_sq"))
    torch.testing.assert_close(average, torch.tensor([0.014691742, 0.011713882, 0.010711999]), rtol=1e-5, atol=0)
    torch.testing.assert_close(square, torch.tensor([4.693403e-4, 3.035322e-4, 2.296253e-4]), rtol=1e-5, atol=0)
    assert run.fit() is None
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in rows] == pytest.approx(LOSSES, abs=1e-4)
    assert rows[3]["learning_rate"] == pytest.approx(0.06 / 7)


def test_a_checkpoint_of_another_version_or_run_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(V1 / "run", folder)
    with pytest.raises(UserError, match="the run here began with seed = 3, not 4"):
        _run(folder, {**IDENTITY, "seed": 4}).resume()
    state = folder / "checkpoints/step-00000003/state.json"
    write_json(state, {**json.loads(state.read_text()), "format_version": 2})
    with pytest.raises(UserError, match=r"state\.json: format version 2 is not the version 1 that is read here"):
        _run(folder, IDENTITY).resume()


def test_a_shard_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    data = bytearray((V1 / "corpus.tokens").read_bytes())
    data[8] = 2
    (tmp_path / "corpus.tokens").write_bytes(data)
    with pytest.raises(UserError, match="token shard version 2, but this release reads 1"):
        open_shard(tmp_path / "corpus.tokens")


def test_recipes_say_what_they_said() -> None:
    assert PretrainRecipe(**read_recipe(V1 / "pretrain.yaml", PretrainRecipe)) == PretrainRecipe(
        steps="1.5m tokens",
        budget="none",
        batch_size=12,
        micro_batch=3,
        learning_rate=0.0025,
        schedule="cosine",
        warmup=0.1,
        decay=0.25,
        final=0.05,
        weight_decay=0.01,
        beta1=0.85,
        beta2=0.98,
        clip=0.5,
        z_loss=0.0001,
        dtype="bfloat16",
        device="cpu",
        compile=True,
        exact=False,
        seed=7,
        save_every="50 steps",
        evaluate_every="75",
        validation_windows=64,
        sample_every="0 steps",
        log_every="5 steps",
        keep=3,
        split="0.9",
        field="content",
        crossing=True,
        tokenizer="characters",
        vocabulary=512,
        family="gpt2",
        depth=2,
        preset="gpt2-medium",
        context=64,
        dropout=0.1,
    )
    assert FinetuneRecipe(**read_recipe(V1 / "finetune.yaml", FinetuneRecipe)) == FinetuneRecipe(
        split="10%", steps="4 epochs", context=32, old_text="notes/*.md", learning_rate=0.0001
    )


IDENTITY = {"command": "pretrain", "corpus_spec": "corpus", "seed": 3, "learning_rate": None, "betas": [0.9, 0.95]}


def _run(folder: Path, identity: dict[str, object], hooks: Hooks = Hooks()) -> Run:
    """The run that the checkpoint belongs to, over the shard and the model of the fixtures."""
    batches = Batches(Windows(open_shard(V1 / "corpus.tokens"), 8), Layout(4, 3))
    recipe = replace(RECIPE, save_every="3", evaluate_every="100")
    learner = Learner({"model": langwright.load_model(V1 / "gpt2")}, TokenPrediction(), torch.float32, recipe)
    return tiny_run(folder, learner, 6, identity, hooks, batches)


@pytest.mark.parametrize("method", [LoRA(), PrefixTuning(2)])
def test_older_checkpoints_of_adapters(method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their parameters had other names: `.side.` for adapters of linear layers, `.lead.` for virtual tokens."""
    old_names = {".adapter.": ".side.", ".virtual_tokens.": ".lead."}

    def write_old(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        for new, old in old_names.items():
            tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
        write_tensors(path, tensors)

    def learner(seed: int) -> Learner:
        model = tiny_model()
        method.attach(model, seed=seed)
        return Learner({"model": model}, TokenPrediction(), torch.float32, RECIPE)

    monkeypatch.setattr("langwright.training.checkpoints.write_tensors", write_old)
    checkpoints, saved, loaded = Checkpoints(tmp_path, {}, keep=1), learner(0), learner(1)
    checkpoints.save(saved, TinyBatches(), Progress())
    checkpoints.load(loaded, TinyBatches())
    assert weights(saved.model).keys() == weights(loaded.model).keys()
    assert same(weights(saved.model), weights(loaded.model))
