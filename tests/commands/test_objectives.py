"""Every objective of pretraining from the command line: it learns, `transformers` opens it, and kills do no harm."""

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers

from langwright import load_model, load_tokenizer
from langwright.cli import main
from langwright.inference.prompts import source_ids
from langwright.models.folder.opened import OpenedFolder
from oracles import random_ids
from processes import survives_kills
from refusals import Fails, Prints

CASES = {
    "causal": ["causal", "--packing"],
    "prefix": ["prefix"],
    "masked": ["masked", "--whole-words"],
    "masked next": ["masked", "--next-sentence"],
    "masked roberta": ["masked", "--family", "roberta", "--packing"],
    "span": ["span"],
    "span switch": ["span", "--family", "switch_transformers", "--packing"],
    "denoise": ["denoise", "--delete", "0.1", "--rotate", "0.2"],
    "seq2seq": ["seq2seq", "--smoothing", "0.1"],
    "seq2seq bart": ["seq2seq", "--family", "bart", "--packing"],
}
OWN = {"seq2seq lstm-attention": ["seq2seq", "--family", "lstm-attention"]}
"""Of families that `transformers` has no class for."""
TINY = ["--depth", "1", "--width", "64", "--context", "32", "--batch-size", "4", "--vocabulary", "280"]
RUN = ["--dtype", "float32", "--sample-every", "0", "--log-every", "1", "--save-every", "3", "--learning-rate", "0.003"]
CLASSES = {
    "causal": transformers.AutoModelForCausalLM,
    "masked": transformers.AutoModelForMaskedLM,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of short documents, and two parallel files of which one is packed."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    words = {"cat": "Katze", "dog": "Hund", "tuna": "Thun", "sees": "sieht", "eats": "frisst", "one": "eine"}
    lines = [draw.choices(list(words), k=draw.randrange(3, 12)) for _ in range(120)]
    english = [" ".join(line) + "." for line in lines]
    german = [" ".join(words[word] for word in line) + "." for line in lines]
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join(f"{a} {b}" for a, b in pairwise(english)))
    (folder / "pairs.en").write_text("\n".join(english) + "\n")
    (folder / "pairs.de.gz").write_bytes(gzip.compress(("\n".join(german) + "\n").encode()))
    return folder


def arguments(name: str, data: Path, out: Path, steps: int) -> list[str]:
    pairs = f"{data / 'pairs.en'}::{data / 'pairs.de.gz'}"
    corpus = pairs if name.startswith("seq2seq") else str(data / "text.txt")
    objective, *more = (CASES | OWN)[name]
    return ["pretrain", corpus, str(out), "--objective", objective, "--steps", f"{steps}", *TINY, *RUN, *more]


@pytest.mark.parametrize("name", CASES)
def test_it_learns_and_transformers_opens_it(name: str, data: Path, tmp_path: Path, prints: Prints) -> None:
    out = tmp_path / "out"
    held_out = json.loads(prints(*arguments(name, data, out, 30), "--evaluate-every", "1", "--json"))
    losses = [
        row["validation_loss"] for row in map(json.loads, (out / "metrics.jsonl").open()) if "validation_loss" in row
    ]
    assert losses[-1] == held_out["loss_nats_per_token"]
    assert losses[-1] < losses[0] - 0.3
    assert (out / "report.html").exists()
    objective, ids = CASES[name][0], random_ids(2, 20)
    ours = OpenedFolder(out).model()
    theirs = CLASSES.get(objective, transformers.AutoModelForSeq2SeqLM).from_pretrained(out, dtype=torch.float32).eval()
    with torch.no_grad():
        if ours.encoders:
            source = random_ids(2, 17)
            expected = theirs(input_ids=source, decoder_input_ids=ids).logits
            assert (ours(source, ids) - expected).abs().max() <= 1e-4
            assert theirs.config.decoder_start_token_id == ours.frame.start
        else:
            assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4
        if "--next-sentence" in CASES[name]:
            theirs = transformers.AutoModelForPreTraining.from_pretrained(out, dtype=torch.float32).eval()
            types = (torch.arange(20) > 8).long().expand(2, -1)
            both = theirs(ids, token_type_ids=types)
            assert (ours(ids, types=types) - both.prediction_logits).abs().max() <= 1e-4
            assert (ours.next(ours.body(ids, types=types)) - both.seq_relationship_logits).abs().max() <= 1e-4
    tokenizer, words = load_tokenizer(out), "One cat sees one dog."
    frame = tokenizer.frame(words)[0]
    assert transformers.AutoTokenizer.from_pretrained(out)(words)["input_ids"] == frame


@pytest.mark.parametrize("name", CASES | OWN)
def test_killed_and_run_again_it_ends_with_the_same_bytes(name: str, data: Path, tmp_path: Path) -> None:
    survives_kills(lambda out: arguments(name, data, tmp_path / out, 14), tmp_path, [7])


@pytest.mark.parametrize("name", ["masked", "masked next", "span", "span switch", "denoise", "prefix", "causal"])
def test_it_goes_on_by_its_own_objective(name: str, data: Path, tmp_path: Path, prints: Prints) -> None:
    """Fine-tuning on a text, with what is forgotten; and the loss on another text, that of the run itself."""
    base, out = tmp_path / "base", tmp_path / "out"
    assert main(arguments(name, data, base, 10)) == 0
    (tmp_path / "new.txt").write_text("\n<|endoftext|>\n".join(f"two tuna eat {n} dogs. " * 3 for n in range(40)))
    few = ["--steps", "12", "--batch-size", "4", "--context", "32", *RUN]
    told = json.loads(prints("finetune", base, tmp_path / "new.txt", out, *few, "--json"))
    record = json.loads((out / "langwright.json").read_text())
    change, unit = record["forgetting"], "bits_per_byte" if name == "causal" else "loss_nats_per_token"
    assert change["new"]["after"] == pytest.approx(told[unit], abs=1e-6)
    assert change["new"]["after"] < change["new"]["before"]
    assert change["old"]["after"] != change["old"]["before"]
    assert ("unit" in change["new"]) == (name != "causal")
    again = json.loads(
        prints("evaluate", out, "--text", tmp_path / "new.txt", "--split", "0.9", "--context", "32", "--json")
    )
    assert again[unit] == pytest.approx(told[unit], rel=1e-5)


def test_a_model_of_a_task_or_of_pairs_does_not_go_on_with_texts(data: Path, tmp_path: Path, fails: Fails) -> None:
    assert main(arguments("seq2seq", data, tmp_path / "pairs", 1)) == 0
    fails("finetune", tmp_path / "pairs", data / "text.txt", tmp_path / "out", names=("pairs", "--task translate"))
    fails("evaluate", tmp_path / "pairs", "--text", data / "text.txt", names=("pairs", "--task translate"))


@pytest.mark.parametrize("name", ["masked", "span"])
def test_conversations_are_for_decoders(name: str, data: Path, tmp_path: Path, fails: Fails) -> None:
    assert main(arguments(name, data, tmp_path / name, 1)) == 0
    (tmp_path / "chats.jsonl").write_text('{"prompt": "one cat", "completion": "sees"}\n' * 40)
    fails("finetune", tmp_path / name, tmp_path / "chats.jsonl", tmp_path / "out", "--task", "chat", names=name)
    assert not (tmp_path / "out" / "langwright.json").exists()


def test_what_was_trained_is_used(data: Path, tmp_path: Path, prints: Prints) -> None:
    masked, pairs = tmp_path / "masked", tmp_path / "pairs"
    assert main(arguments("masked", data, masked, 3)) == 0
    assert "%" in prints("next", masked, "One <|mask|> sees one dog.")
    assert main(arguments("seq2seq", data, pairs, 3)) == 0
    assert prints("generate", pairs, "--prompt", "one cat sees.", "--max-new-tokens", "4") is not None
    assert load_model(pairs).encoders


def test_names_of_gaps_in_a_source_mean_gaps(data: Path, tmp_path: Path) -> None:
    """As in training, where a gap takes the blank before a word along; every other name is text."""
    for objective, gap in (("span", "<extra_id_0>"), ("denoise", "<|mask|>")):
        assert main(arguments(objective, data, tmp_path / objective, 1)) == 0
        model, tokenizer = load_model(tmp_path / objective), load_tokenizer(tmp_path / objective)
        whole = source_ids(model, tokenizer, "One cat sees one dog.")
        found = source_ids(model, tokenizer, f"One cat {gap} one dog.")
        places = [i for i, id in enumerate(found) if tokenizer.token(id) == gap]
        assert len(places) == 1
        assert found[: places[0]] == whole[: places[0]]
        assert found[places[0] + 1 :] == whole[places[0] + 1 - len(found) :]
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / objective)
        assert theirs(f"One cat {gap} one dog.")["input_ids"] == found
        assert tokenizer.eos_id not in source_ids(model, tokenizer, "One <|eos|> cat")[:-1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--objective", "masked", "--family", "llama"], ["--objective masked", '"llama"', "bert"]),
        (["--objective", "causal", "--family", "t5"], ["--objective causal", '"t5"']),
        (["--objective", "span", "--preset", "gpt2"], ["--objective span", '"gpt2"']),
        (["--objective", "causal", "--noise", "0.2"], ["--noise", "masked"]),
        (["--objective", "span", "--noise", "0"], ["--noise 0"]),
        (["--objective", "span", "--whole-words"], ["--whole-words", "masked"]),
        (["--objective", "span", "--next-sentence"], ["--next-sentence", "masked"]),
        (["--objective", "masked", "--next-sentence", "--family", "roberta"], ["--next-sentence", "roberta", "bert"]),
        (["--objective", "masked", "--next-sentence", "--packing"], ["--next-sentence", "--packing"]),
        (["--objective", "masked", "--delete", "0.1"], ["--delete", "denoise"]),
        (["--objective", "denoise", "--mean-span", "0.5"], ["--mean-span"]),
        (["--smoothing", "1"], ["--smoothing"]),
        (["--crossing", "--packing"], ["--crossing", "--packing"]),
        (["--objective", "seq2seq"], ["text.txt", "::"]),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: list[str], named: list[str], data: Path, tmp_path: Path, fails: Fails
) -> None:
    fails("pretrain", data / "text.txt", tmp_path / "out", *changes, names=tuple(named))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_files_that_are_not_parallel_are_refused(data: Path, tmp_path: Path, fails: Fails) -> None:
    short, blank, broken = (tmp_path / name for name in ("short.de", "blank.de", "broken.de.gz"))
    short.write_text("eine Katze\n" * 3)
    blank.write_text("\n" * 120)
    broken.write_bytes((data / "pairs.de.gz").read_bytes()[:50])
    for other, named in ((short, "3 lines"), (blank, "both sides"), (broken, "broken.de.gz"), (tmp_path / "no", "no")):
        spec = f"{data / 'pairs.en'}::{other}"
        fails("pretrain", spec, tmp_path / "out", "--objective", "seq2seq", names=(other.name, named))
    fails("pretrain", f"{data / 'pairs.en'}::", tmp_path / "out", "--objective", "seq2seq", names="::")
