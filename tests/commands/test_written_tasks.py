"""Translation and summarisation from the command line: sources in, targets out, as `transformers` writes them."""

import gzip
import json
import random
from pathlib import Path

import pytest
import sacrebleu
import torch
import transformers
from rouge_score.rouge_scorer import RougeScorer

from langwright import load_tokenizer
from langwright.cli import main
from langwright.corpora.labelled import Columns
from langwright.corpora.pairs import open_pairs
from langwright.data.reading import with_special_tokens
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.training import raw_bytes
from processes import survives_kills
from refusals import Fails, Prints, refused

RUN = ["--dtype", "float32", "--context", "64", "--batch-size", "8", "--learning-rate", "0.005", "--log-every", "1"]
SAYINGS = {
    "the cat sleeps": "die Katze schläft gut heute",
    "a dog barks": "ein Hund bellt sehr laut",
    "bees hum": "alle Bienen summen im Garten",
    "it rains": "es regnet seit gestern wieder",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of each kind, and pairs as lines and as rows."""
    folder, draw = tmp_path_factory.mktemp("made"), random.Random(0)
    for family in ("t5", "bart", "llama", "bert"):
        tokenizer = with_special_tokens(raw_bytes(), mask=family == "bert")
        begin, end = tokenizer.bos_id or 0, tokenizer.eos_id or 0
        if family in ("t5", "bart"):  # as their own tokenizers do
            tokenizer = tokenizer.framed([begin] if family == "bart" else [], [end])
        config = by_depth(family, 1, tokenizer.vocab_size, 64, 0.0, width=64)
        save_model(new_model(family, config), tokenizer, folder / family)
    pairs = [draw.choice(list(SAYINGS.items())) for _ in range(60)]
    (folder / "pairs.en").write_text("".join(source + "\n" for source, _ in pairs))
    (folder / "pairs.de.gz").write_bytes(gzip.compress("".join(target + "\n" for _, target in pairs).encode()))
    rows = "".join(json.dumps({"id": 1, "dialogue": source, "summary": target}) + "\n" for source, target in pairs)
    (folder / "rows.jsonl").write_text(rows)
    held_out = "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in SAYINGS.items())
    (folder / "held_out.jsonl").write_text(held_out)
    (folder / "sources.txt").write_text("\n".join(SAYINGS) + "\n")
    return folder


def tune(made: Path, out: Path, model: str, *more: object, task: str = "translate", steps: int = 60) -> list[str]:
    data = made / "rows.jsonl" if task == "summarise" else f"{made / 'pairs.en'}::{made / 'pairs.de.gz'}"
    words = ["finetune", made / model, data, out, "--task", task, "--steps", f"{steps}", *RUN]
    return [str(word) for word in (*words, "--validation", made / "held_out.jsonl", *more)]


@pytest.mark.parametrize("model", ["marian", "lstm-attention"])
def test_new_models_translate_sentences_that_they_have_not_seen(model: str, tmp_path: Path, prints: Prints) -> None:
    """Words of a language in another order; what stands where depends on the source alone."""
    words = {"bee": "biene", "cat": "katze", "dog": "hund", "owl": "eule", "sees": "sieht", "feeds": "nährt"}
    things, deeds = list(words)[:4], list(words)[4:]
    colours = {"red": "rot", "old": "alt", "small": "klein", "sad": "trist"}
    rows = [(a, e, v, b, f) for a in things for b in things if a != b for v in deeds for e in colours for f in colours]
    random.Random(0).shuffle(rows)
    texts = [
        (f"the {e} {a} {v} the {f} {b}", f"{words[a]} {colours[e]} {words[b]} {colours[f]} {words[v]}")
        for a, e, v, b, f in rows
    ]
    for part, chosen in (("train", texts[:-64]), ("test", texts[-64:])):
        for side in (0, 1):
            (tmp_path / f"{part}.{side}").write_text("".join(text[side] + "\n" for text in chosen))
    train, test = (f"{tmp_path / part}.0::{tmp_path / part}.1" for part in ("train", "test"))
    shape = ["--depth", "1", "--width", "128", "--context", "16", "--tokenizer", "words", "--dtype", "float32"]
    how = ["--steps", "120", "--batch-size", "32", "--evaluate-every", "60", "--validation-windows", "8"]
    prints("finetune", f"new:{model}", train, tmp_path / "out", "--task", "translate", *shape, *how)
    assert json.loads(prints("evaluate", tmp_path / "out", "--data", test, "--json"))["bleu"] > 80


@pytest.mark.parametrize("model", ["t5", "bart", "llama"])
def test_it_learns_predicts_and_writes_what_transformers_writes(
    model: str, made: Path, tmp_path: Path, prints: Prints
) -> None:
    out, held_out = tmp_path / "out", made / "held_out.jsonl"
    told = json.loads(prints(*tune(made, out, model), "--evaluate-every", "20", "--json"))
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["validation_loss"] for row in metrics if "validation_loss" in row]
    assert losses[-1] < losses[0] - 0.3
    measured = json.loads(prints("evaluate", out, "--data", held_out, "--json", "--dtype", "float32"))
    assert measured == {name: pytest.approx(told[name]) for name in ("bleu", "chrf", "rows")}
    lines = prints("predict", out, made / "sources.txt")
    assert lines == (out / "predictions.jsonl").read_text()
    texts = [json.loads(line)["text"] for line in lines.splitlines()]
    assert measured["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [list(SAYINGS.values())]).score)
    record = json.loads((out / "langwright.json").read_text())
    assert "nrefs:1" in record["details"]["signature"]
    tokenizer, length = load_tokenizer(out), record["task"]["length"]
    assert length == 1 + (model == "bart") + max(len(target.encode()) for target in SAYINGS.values())
    settings = {"max_new_tokens": length, "do_sample": False, "num_beams": 1}
    for source, text in zip(SAYINGS, texts, strict=True):
        if model == "llama":
            theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
            ids = [*tokenizer.prefix, *tokenizer.encode(record["task"]["template"].format(source=source))]
            written = theirs.generate(torch.tensor([ids]), **settings)[0, len(ids) :]
        else:
            theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(out, dtype=torch.float32)
            written = theirs.generate(
                torch.tensor([transformers.AutoTokenizer.from_pretrained(out)(source)["input_ids"]]), **settings
            )[0]
        assert tokenizer.decode(written.tolist(), skip_special=True).strip() == text


def test_summaries_adapters_and_beams(made: Path, tmp_path: Path, prints: Prints) -> None:
    out = tmp_path / "out"
    told = json.loads(prints(*tune(made, out, "t5", "--method", "lora", "--rank", "4", task="summarise"), "--json"))
    lines = prints("predict", made / "t5", made / "sources.txt", "--adapter", out)
    assert lines == (out / "predictions.jsonl").read_text()
    assert all(source in (out / "report.html").read_text() for source in SAYINGS)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    texts = [json.loads(line)["text"] for line in lines.splitlines()]
    scores = [scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(SAYINGS.values(), texts, strict=True)]
    assert told["rougeL"] == pytest.approx(sum(scores) / len(scores))
    beams = ["--beams", "3", "--max-new-tokens", "5"]
    short = prints("predict", made / "t5", made / "sources.txt", "--adapter", out, *beams).splitlines()
    assert all(len(json.loads(line)["text"]) <= 5 for line in short)


def test_what_was_pretrained_on_pairs_translates(made: Path, tmp_path: Path, prints: Prints) -> None:
    pairs, out = f"{made / 'pairs.en'}::{made / 'pairs.de.gz'}", tmp_path / "out"
    shape = ["--depth", "1", "--width", "64", "--context", "48", "--tokenizer", "bytes", "--batch-size", "4"]
    assert main(["pretrain", pairs, str(out), "--objective", "seq2seq", "--steps", "3", "--split", "0.9", *shape]) == 0
    assert len(prints("predict", out, made / "sources.txt").splitlines()) == 4
    assert {"bleu", "chrf"} < set(json.loads(prints("evaluate", out, "--data", pairs, "--json")))


def test_long_sources_are_cut_and_counted(
    made: Path, tmp_path: Path, prints: Prints, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "long.jsonl").write_text(
        "".join(
            json.dumps({"en": f"{i} " * n, "de": "ja"}) + "\n" for i, n in zip(range(9), [90, 1, 1] * 3, strict=True)
        )
    )
    for model in ("t5", "llama"):
        out = tmp_path / model
        words = ["finetune", made / model, tmp_path / "long.jsonl", out, "--task", "translate", "--steps", "1", *RUN]
        assert main([str(word) for word in (*words, "--batch-size", "2", "--split", "0.8")]) == 0
        assert "of 7 sources" in (told := capsys.readouterr().err)
        assert '"en"' in told
        assert len(prints("predict", out, tmp_path / "long.jsonl").splitlines()) == 9


def test_killed_and_run_again_it_ends_with_the_same_bytes(made: Path, tmp_path: Path) -> None:
    every = ["--save-every", "3", "--evaluate-every", "6", "--validation-windows", "2"]
    survives_kills(lambda out: tune(made, tmp_path / out, "t5", *every, steps=14), tmp_path, [7])


def test_columns_of_pairs_are_guessed_or_named(tmp_path: Path) -> None:
    def pairs(name: str, text: str, columns: Columns = Columns(), answered: bool = True) -> list[tuple[str, str]]:
        (tmp_path / name).write_text(text)
        return [pair[:2] for pair in open_pairs(str(tmp_path / name), columns, answered).pairs]

    assert pairs("a.csv", "en,de\nyes,ja\nno,nein\n") == [("yes", "ja"), ("no", "nein")]
    assert pairs("b.tsv", "yes\tja\nno\tnein\n") == [("yes", "ja"), ("no", "nein")]
    assert pairs("c.jsonl", '{"split": "x", "en": "yes", "hau": "i"}\n') == [("yes", "i")]
    assert pairs("d.csv", "x,dialogue,summary\n1,yes,ja\n", Columns("summary", None, "dialogue")) == [("ja", "yes")]
    assert pairs("e.jsonl", '{"dialogue": "yes", "short": "ja"}\n', Columns(label_field="short")) == [("yes", "ja")]
    assert pairs("f.jsonl", '{"dialogue": "yes"}\n{"dialogue": ""}\n', answered=False) == [("yes", ""), ("", "")]
    with refused("g.csv", "--text-field"):
        pairs("g.csv", "x,y,z\n1,2,3\n")
    with refused("h.jsonl:2", '"summary"'):
        pairs("h.jsonl", '{"dialogue": "yes", "summary": "a"}\n{"dialogue": "yes"}\n')
    with refused("i.jsonl", "both sides"):
        pairs("i.jsonl", '{"source": "yes", "target": " "}\n')


def test_what_cannot_be_done_is_refused(made: Path, tmp_path: Path, fails: Fails) -> None:
    data, out = made / "rows.jsonl", tmp_path / "out"
    words = ["--task", "summarise", "--split", "0.5", *RUN]
    fails("finetune", made / "bert", data, out, *words, names=("bert", "language"))
    fails("finetune", made / "t5", data, out, *words, "--label-field", "summry", names=("rows.jsonl:1", '"summry"'))
    fails("finetune", made / "t5", data, out, *words, "--second-field", "id", names=("--second-field",))
    fails("finetune", made / "t5", f"{data}::{made / 'pairs.en'}x", out, *words, names=("pairs.enx",))
    fails("evaluate", made / "llama", "--text", data, "--text-field", "summary", names=("--text-field", "--data"))
    pairs = f"{made / 'pairs.en'}::{made / 'pairs.de.gz'}"
    fails("pretrain", pairs, out, "--objective", "seq2seq", "--field", "x", names=("--field", "--objective"))
    (tmp_path / "short.de").write_text("ja\n")
    fails(
        "finetune", made / "t5", f"{made / 'pairs.en'}::{tmp_path / 'short.de'}", out, *words, names=("short.de has 1",)
    )
    fails("predict", made / "llama", data, names=("llama", "language"))
    fails("evaluate", made / "llama", "--text", data, "--field", "summary", "--beams", "2", names=("--beams", "--data"))
    assert not (out / "model.safetensors").exists()
