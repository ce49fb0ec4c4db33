"""What each kind of model is for: models trained from scratch by the commands of this package, and what they score.

    python benchmarks/kinds.py --data FOLDER [--work DIR] [ROW ...]     # all, or whose names begin so, in that order
    python benchmarks/kinds.py --list
    python benchmarks/kinds.py --table [--work DIR]      # what is finished, as Markdown

A row is a few commands, the last of which prints its scores. Rows that are finished in DIR are not run again, and a row
that was stopped goes on where it was. Steps are fixed, so that the speed of the machine decides nothing. FOLDER holds
the data sets in the folders that the commands name.
"""

import csv
import gzip
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, lines, main

from langwright import load_tokenizer
from langwright.text.tokenizer import Tokenizer

QUIET = '--sample-every "0 steps" --save-every "500 steps" --dtype bfloat16'
SMALL = "--depth 4 --width 256 --vocabulary 8192 --dropout 0.1 --optimizer muon --context 128"
PRETRAIN = f'--batch-size 32 --split 1% --evaluate-every "1000 steps" --validation-windows 256 {QUIET}'
TUNE = f"--batch-size 32 {QUIET}"
SEEDS = (0, 1, 2)
SURE = "--resamples 200"


def rows() -> Iterator[Row]:
    """All rows."""
    yield from pretrained()
    yield from sentiment()
    yield from kinds()
    yield from translation()
    yield from language_models()
    yield from low_resource()
    yield from few_labels()
    yield from domains()
    yield from experts()


def pretrained() -> Iterator[Row]:
    """An encoder, a decoder and an encoder-decoder of 5.3 to 5.8 million parameters, 2.6e14 FLOPs each, on novels."""
    for family, objective, depth, steps in (
        ("bert", "masked --noise 0.3", 4, 3000),
        ("llama", "causal", 4, 1968),
        ("t5", "span --noise 0.3", 2, 2700),
    ):
        out, size = f"{{work}}/novels-{family}", SMALL.replace("--depth 4", f"--depth {depth}")
        yield Row(
            f"pretrained/{family}",
            (
                f"pretrain {{data}}/text/novels.txt.xz {out} --objective {objective} --family {family} {size} "
                f'--steps "{steps} steps" {PRETRAIN} --json',
            ),
        )


SST = "{data}/classify/sst2_train.tsv"
SST_TEST = "{data}/classify/sst2_test.tsv"
SST_VALID = "--validation {data}/classify/sst2_dev.tsv"


def tuned(
    name: str, model: str, data: str, test: str, options: str, needs: tuple[str, ...] = (), measured: str = ""
) -> Row:
    """A model tuned to a task, and its scores on rows that it has not seen."""
    out = '"{work}/' + name.replace("/", "-") + '"'
    of = f"{model} --adapter {out}" if "--method" in options else out
    return Row(
        name,
        (
            f'finetune "{model}" {data} {out} {options} {QUIET if "--batch-size" in options else TUNE}',
            f"evaluate {of} --data {test} {measured} {SURE} --json",
        ),
        needs,
    )


def sentiment() -> Iterator[Row]:
    """SST-2: what came before, models from scratch, and the gain of pretraining."""
    yield Row("sst2/bag of words", (f"baseline bag-of-words {SST} {SST_TEST} --json",))
    yield Row("sst2/gzip + kNN", (f"baseline gzip-knn {SST} {SST_TEST} --json",))
    short = f'--task classify {SST_VALID} --context 64 --steps "3 epochs" --evaluate-every "100 steps"'
    new = f"{short} --vocabulary 8192 --dropout 0.1"
    for seed in SEEDS:
        for model, options in (
            ("cnn", f"{new} --depth 2 --width 128"),
            ("lstm", f"{new} --depth 1 --width 128"),
            ("bert", f"{new} --depth 4 --width 256 --learning-rate 0.0004"),
        ):
            name = "encoder" if model == "bert" else model
            yield tuned(f"sst2/{name} from scratch/{seed}", f"new:{model}", SST, SST_TEST, f"{options} --seed {seed}")
        yield tuned(
            f"sst2/encoder pretrained here/{seed}", "{work}/novels-bert", SST, SST_TEST, f"{short} --seed {seed}",
            ("pretrained/bert",),
        )  # fmt: skip


CONLL = "{data}/ner/conll2003.train.conll.gz"
CONLL_TEST = "{data}/ner/conll2003.test.conll.gz"


def kinds() -> Iterator[Row]:
    """The three kinds on four tasks; an encoder cannot write."""
    names = {"bert": "encoder", "llama": "decoder", "t5": "encoder-decoder"}
    conll = (
        "--task tokens --validation {data}/ner/conll2003.dev.conll.gz --context 128 "
        '--steps "3 epochs" --evaluate-every "400 steps"'
    )
    xquad = '--task qa --split 0.9 --steps "4 epochs" --evaluate-every "500 steps" --context 128'
    for family, name in names.items():
        base, need = f"{{work}}/novels-{family}", (f"pretrained/{family}",)
        if family != "bert":
            short = f'--task classify {SST_VALID} --context 64 --steps "3 epochs" --evaluate-every "100 steps"'
            yield tuned(f"sst2/{name} pretrained here/0", base, SST, SST_TEST, short, need)
        yield tuned(f"conll/{name} pretrained here", base, CONLL, CONLL_TEST, conll, need)
        yield tuned(
            f"xquad/{name} pretrained here", base, "{work}/xquad-train.json", "{work}/xquad-test.json", xquad, need
        )
        if family != "bert":
            yield summary(f"dialogsum/{name} pretrained here", base, need)
    new = "--depth 4 --width 256 --vocabulary 8192 --dropout 0.1"
    yield tuned("conll/encoder from scratch", "new:bert", CONLL, CONLL_TEST, f"{conll} {new} --learning-rate 0.0004")
    yield tuned(
        "xquad/encoder from scratch", "new:bert", "{work}/xquad-train.json", "{work}/xquad-test.json",
        f"{xquad} {new} --learning-rate 0.0004",
    )  # fmt: skip
    yield summary("dialogsum/encoder-decoder from scratch", "new:t5", (), new.replace("--depth 4", "--depth 2"))


def summary(name: str, model: str, needs: tuple[str, ...], more: str = "") -> Row:
    """Dialogues and their summaries: learnt from the 500 of dev, ROUGE on the 500 of test."""
    options = (
        '--task summarise --text-field dialogue --label-field summary --context 128 --split 5% --steps "20 epochs" '
        f'--evaluate-every "150 steps" --validation-windows 16 --smoothing 0.1 {more}'
    )
    measured = "--text-field dialogue --label-field summary1 --max-new-tokens 48"
    return tuned(
        name, model, "{data}/summarise/dialogsum_dev.jsonl", "{data}/summarise/dialogsum_test.jsonl", options, needs,
        measured,
    )  # fmt: skip


def translation() -> Iterator[Row]:
    """Multi30k, English to German: about 64 pairs a step, in 16 rows of 64 tokens."""
    pairs = "{data}/translate/multi30k_train.en.gz::{data}/translate/multi30k_train.de.gz"
    test = "{data}/translate/multi30k_test2016.en.gz::{data}/translate/multi30k_test2016.de.gz"
    common = (
        "--objective seq2seq --context 64 --vocabulary 8192 --smoothing 0.1 --dropout 0.3 --split 0.99 "
        '--sample-every "0 steps" --evaluate-every "2000 steps" --save-every "1000 steps" --log-every "100 steps" '
        "--dtype bfloat16"
    )
    for name, options in (
        ("transformer", '--depth 3 --width 256 --batch-size 16 --packing --steps "12000 steps"'),
        ("lstm-attention", '--family lstm-attention --depth 1 --width 256 --batch-size 64 --steps "4000 steps"'),
    ):
        out = f"{{work}}/multi30k-{'marian' if name == 'transformer' else name}"
        yield Row(
            f"multi30k/{name}",
            (f"pretrain {pairs} {out} {options} {common}", f"evaluate {out} --data {test} --beams 4 {SURE} --json"),
        )


def language_models() -> Iterator[Row]:
    """Penn Treebank, words: the LSTM of the recipe, and a transformer for as long as that trains on an idle machine."""
    test = "evaluate {work}/ptb-%s --text {work}/ptb.test.txt --json"
    text = "{work}/ptb.[tv][ra]*.txt"
    yield Row(
        "ptb/lstm",
        (f"pretrain {text} {{work}}/ptb-lstm --recipe recipes/ptb-lstm-small.yaml", test % "lstm"),
    )
    options = (
        "--family llama --depth 5 --width 192 --dropout 0.3 --tokenizer words --vocabulary 10003 --split 0.92733087 "
        f'--crossing --context 128 --batch-size 16 --steps "9000 steps" {QUIET} --evaluate-every "1000 steps"'
    )
    yield Row("ptb/transformer", (f"pretrain {text} {{work}}/ptb-llama {options}", test % "llama"))


def low_resource() -> Iterator[Row]:
    """Hausa: translation of 5,865 pairs and entities in 2,500 sentences; Tatoeba and human rights to pretrain on."""
    for family, objective, depth in (("bert", "masked --noise 0.3", 4), ("t5", "span --noise 0.3", 2)):
        size = SMALL.replace("--depth 4", f"--depth {depth}")
        yield Row(
            f"pretrained/languages {family}",
            (
                f"pretrain {{work}}/languages.txt {{work}}/languages-{family} --objective {objective} "
                f'--family {family} {size} --steps "1000 steps" {PRETRAIN} --json',
            ),
        )
    pairs = "{data}/multilingual/lafand_en-hau.jsonl.gz"
    translate = (
        "--task translate --text-field en --label-field hau --context 64 --smoothing 0.1 "
        '--steps "8 epochs" --evaluate-every "700 steps" --validation-windows 32'
    )
    fields = "--text-field en --label-field hau --max-new-tokens 64"
    new = "--width 256 --vocabulary 8192 --dropout 0.1"
    base, need = "{work}/languages-t5", ("pretrained/languages t5",)
    yield tuned("hausa translation/from scratch", "new:t5", pairs, pairs, f"{translate} --depth 2 {new}", (), fields)
    yield tuned("hausa translation/pretrained", base, pairs, pairs, translate, need, fields)
    yield tuned(
        "hausa translation/pretrained, LoRA", base, pairs, pairs,
        f"{translate} --method lora --rank 16 --learning-rate 0.003", need, fields,
    )  # fmt: skip
    train, valid, test = (f"{{data}}/ner/masakhaner2_hau.{part}.conll.gz" for part in ("train", "dev", "test"))
    tokens = f'--task tokens --validation {valid} --context 128 --steps "8 epochs" --evaluate-every "100 steps"'
    base, need = "{work}/languages-bert", ("pretrained/languages bert",)
    yield tuned(
        "hausa entities/from scratch", "new:bert", train, test, f"{tokens} --depth 4 {new} --learning-rate 0.0004"
    )
    yield tuned("hausa entities/pretrained", base, train, test, tokens, need)
    yield tuned(
        "hausa entities/pretrained, LoRA", base, train, test,
        f"{tokens} --method lora --rank 16 --learning-rate 0.003", need,
    )  # fmt: skip


def few_labels() -> Iterator[Row]:
    """AG News with few rows a label, and what changed copies of them add."""
    train, test = "{work}/ag-train-%s.csv", "{work}/ag-test.csv"
    options = "--task classify --split 0.9 --context 64 --steps %s --evaluate-every %s"
    for count in (5, 20, 100):
        for kind in ("gzip-knn", "bag-of-words"):
            yield Row(f"ag news/{count} a class/{kind}", (f"baseline {kind} {train % count} {test} --json",))
        yield tuned(
            f"ag news/{count} a class/encoder pretrained here", "{work}/novels-bert", train % count, test,
            options % ('"200 steps"', '"50 steps"') + " --batch-size 16" * (count == 5), ("pretrained/bert",),
        )  # fmt: skip
    for count in (50, 200, 1000):
        for name, more in (("plain", ""), ("augmented", "--augment synonyms,deletion,swap,typos")):
            yield tuned(
                f"ag news, {count} rows/{name}", "{work}/novels-bert", train % f"all-{count}", test,
                options % ('"200 steps"', '"50 steps"') + f" {more}", ("pretrained/bert",),
            )  # fmt: skip


def domains() -> Iterator[Row]:
    """IMDb: masked pretraining that goes on with its texts; and what is learnt on SST-2, asked of IMDb."""
    train, test = "{work}/imdb-train.tsv", "{work}/imdb-test.tsv"
    yield Row(
        "pretrained/imdb bert",
        (
            "finetune {work}/novels-bert {work}/imdb.jsonl {work}/imdb-bert --batch-size 32 --context 128 "
            f'--steps "400 steps" --learning-rate 0.0008 --evaluate-every "200 steps" {QUIET} --json',
        ),
        ("pretrained/bert",),
    )
    options = '--task classify --context 128 --split 0.9 --steps "4 epochs" --evaluate-every "60 steps"'
    yield Row("imdb/bag of words", (f"baseline bag-of-words {train} {test} --json",))
    for name, base in (("novels", "novels-bert"), ("novels, then IMDb", "imdb-bert")):
        need = f"pretrained/{'bert' if base == 'novels-bert' else 'imdb bert'}"
        yield tuned(f"imdb/encoder of {name}", f"{{work}}/{base}", train, test, options, (need,))
    for kind in ("bag-of-words", "gzip-knn"):
        yield Row(f"sst2 to imdb/{kind}", (f"baseline {kind} {SST} {test} --json",))
    for name in ("cnn from scratch", "lstm from scratch", "encoder from scratch", "encoder pretrained here"):
        out = f"{{work}}/sst2-{name}-0"
        yield Row(f"sst2 to imdb/{name}", (f'evaluate "{out}" --data {test} {SURE} --json',), (f"sst2/{name}/0",))
    yield tuned(
        "imdb after sst2/on sst2", "{work}/sst2-encoder pretrained here-0", train, SST_TEST, options,
        ("sst2/encoder pretrained here/0",),
    )  # fmt: skip
    yield Row(
        "imdb after sst2/on imdb", (f'evaluate "{{work}}/imdb after sst2-on sst2" --data {test} {SURE} --json',),
        ("imdb after sst2/on sst2",),
    )  # fmt: skip


def experts() -> Iterator[Row]:
    """T5 with one of eight experts in every second layer, beside the dense one: equal FLOPs a token."""
    for family in ("t5", "switch_transformers"):
        out, size = f"{{work}}/experts-{family}", SMALL.replace("--depth 4", "--depth 2")
        more = "--experts" if family != "t5" else ""
        yield Row(
            f"experts/{family}",
            (
                f"pretrain {{data}}/text/novels.txt.xz {out} --objective span --family {family} {size} "
                f'--steps "600 steps" {PRETRAIN}',
                f"evaluate {out} --text {{data}}/text/warandpeace.txt {more} --json",
            ),
        )


def prepare(data: Path, work: Path) -> None:
    """Files that the commands read and the sets do not hold as such; made once."""
    if (work / "imdb-test.tsv").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(data / "text" / "ptb.zip") as archive:
        for name in archive.namelist():
            if Path(name).name.startswith("ptb.") and name.endswith(".txt"):
                (work / Path(name).name).write_bytes(archive.read(name))
    with gzip.open(data / "qa" / "xquad.en.json.gz", "rt") as file:
        articles = json.load(file)["data"]
    for part, chosen in (("train", articles[:40]), ("test", articles[40:])):
        (work / f"xquad-{part}.json").write_text(json.dumps({"data": chosen}))
    with open(data / "classify" / "ag_news_test.csv", newline="") as file:
        news = [(label, f"{title}. {text}") for label, title, text in csv.reader(file)]
    random.Random(0).shuffle(news)
    table(work / "ag-test.csv", news[:2000])
    rest = news[2000:]
    for count in (5, 20, 100):
        table(work / f"ag-train-{count}.csv", [row for k in "1234" for row in [r for r in rest if r[0] == k][:count]])
    for count in (50, 200, 1000):
        table(work / f"ag-train-all-{count}.csv", rest[:count])
    texts = [row[side] for row in lines(data / "multilingual" / "tatoeba112.jsonl.gz") for side in ("src", "eng")]
    texts += [row["lines"] for row in lines(data / "multilingual" / "udhr388.jsonl.xz")]
    pairs = [row for row in lines(data / "multilingual" / "lafand_en-hau.jsonl.gz") if row["split"] == "train"]
    texts += [[row["en"] for row in pairs], [row["hau"] for row in pairs]]
    (work / "languages.txt").write_text("\n<|endoftext|>\n".join("\n".join(of_one) for of_one in texts))
    reviews = lines(data / "classify" / "imdb_sample.jsonl.gz")
    for part in ("train", "test"):
        rows = [(row["text"], str(int(row["label"] == "pos"))) for row in reviews if row["split"] == part]
        if part == "train":
            (work / "imdb.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in rows))
        (work / f"imdb-{part}.tsv").write_text("".join(f"{' '.join(text.split())}\t{label}\n" for text, label in rows))


def table(path: Path, rows: list[tuple[str, str]]) -> None:
    """Labels and texts as CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("label", "text"), *rows])


SHOWN = {
    "sst2": "accuracy", "conll": "entity_f1", "xquad": "exact_match f1", "dialogsum": "rouge1 rouge2 rougeL",
    "multi30k": "bleu chrf", "ptb": "perplexity", "hausa translation": "chrf bleu", "hausa entities": "entity_f1",
    "ag news": "accuracy", "imdb": "accuracy", "experts": "loss perplexity",
}  # fmt: skip
"""The columns of the tables whose names begin so."""


def tables(work: Path, data: Path | None) -> Iterator[str]:
    """Markdown of the finished rows: mean and deviation over seeds; elsewhere the 95 % interval over rows."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows():
        table, *model = row.name.split("/")
        told = work / "results" / f"{row.name.replace('/', '__')}.json"
        if told.exists() and table != "pretrained":
            name = "/".join(model[:-1] if model[-1].isdigit() else model)
            found.setdefault(table, {}).setdefault(name, []).append(json.loads(told.read_text()))
    for table, models in found.items():
        metrics = next(shown for name, shown in SHOWN.items() if table.startswith(name)).split()
        yield f"\n| {table} | {' | '.join(metrics)} |\n|---|{'---|' * len(metrics)}"
        for name, runs in models.items():
            yield f"| {name} | {' | '.join(cell(metric, runs) for metric in metrics)} |"
    folder = work / "languages-bert"
    if data is not None and (folder / "model.safetensors").exists():
        yield from fertility(data, load_tokenizer(folder))


def cell(metric: str, runs: list[dict[str, Any]]) -> str:
    """A metric of some runs; shares in percent."""
    values = np.array([run[metric] for run in runs])
    scale = 1 if metric in ("bleu", "chrf", "perplexity", "loss") else 100
    if len(runs) > 1:
        return f"{scale * values.mean():.1f} ± {scale * values.std(ddof=1):.1f}"
    ends = runs[0].get("intervals", {}).get(metric)
    if ends is None and "baseline" in runs[0]:
        rows = runs[0]["test_rows"]
        ends = np.percentile(np.random.default_rng(0).binomial(rows, values[0], 10_000) / rows, [2.5, 97.5])
    return f"{scale * values[0]:.1f}" + ("" if ends is None else f" ({scale * ends[0]:.1f} to {scale * ends[1]:.1f})")


LANGUAGES = {
    "eng": "English", "hau_NG": "Hausa", "swh": "Swahili", "yor": "Yoruba", "deu": "German", "spa": "Spanish",
    "fin": "Finnish", "tur": "Turkish", "rus": "Russian", "arb": "Arabic", "hin": "Hindi", "amh": "Amharic",
}  # fmt: skip
"""Languages of the declaration of human rights whose words blanks part."""


def fertility(data: Path, tokenizer: Tokenizer) -> Iterator[str]:
    """Markdown of tokens a word: English and Hausa news, and the declaration of human rights in some languages."""
    pairs = [row for row in lines(data / "multilingual" / "lafand_en-hau.jsonl.gz") if row["split"] == "test"]
    texts = {"English news": [row["en"] for row in pairs], "Hausa news": [row["hau"] for row in pairs]}
    for row in lines(data / "multilingual" / "udhr388.jsonl.xz"):
        if row["lang"] in LANGUAGES:
            texts[LANGUAGES[row["lang"]]] = row["lines"]
    yield "\n| language | tokens a word | bytes a token |\n|---|---|---|"
    for language, said in texts.items():
        text = "\n".join(said)
        tokens = len(tokenizer.encode(text))
        yield f"| {language} | {tokens / len(text.split()):.2f} | {len(text.encode()) / tokens:.2f} |"


if __name__ == "__main__":
    main(__doc__, {row.name: row for row in rows()}, Path("kinds"), prepare=prepare, tables=tables, threads="1")
