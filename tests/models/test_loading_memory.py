"""Loading touches little more memory than the weights take: measured in fresh processes, on folders of 200 MB."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from langwright.models.families import FAMILIES
from langwright.models.folder import CONFIG
from langwright.models.shapes import by_depth
from langwright.models.tasks import entries

LIMIT = 1.1
MEASURE = """
import gc, sys, threading
import torch
from langwright import load_model

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

def watch():
    global peak
    while not done.wait(0.0005):
        peak = max(peak, anonymous())

folder, dtype = sys.argv[1], sys.argv[2]
load_model(sys.argv[3])  # what the first load imports and allocates is not the weights'
gc.collect()  # or it is freed while the weights are loaded, and they seem to take less
before = peak = anonymous()
done = threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
model = load_model(folder, dtype=getattr(torch, dtype, None))
peak = max(peak, anonymous())
done.set()
watcher.join()
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(weights, peak - before)
"""


def write(folder: Path, family: str, depth: int, dtype: torch.dtype, shards: int, copied: bool = False) -> None:
    """A folder with numbers of no meaning, made tensor by tensor from the key map."""
    row, config = FAMILIES[family], by_depth(family, depth, 32_000 if depth > 1 else 256, 64, dropout=0.0)
    with torch.device("meta"):
        model = row.build(config)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    tensors = {
        entry.disk: torch.full(entry.shape([shapes[name] for name in entry.ours]), 0.5, dtype=dtype)
        for entry in entries(row, config, row.task)
    }
    if copied:
        tensors["lm_head.weight"] = tensors[f"{row.prefix}wte.weight"].clone()
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(row.dump(config)))
    if shards == 1:
        return save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    places = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: t for name, t in tensors.items() if places[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return None


CASES = {
    "llama, shards": ("llama", 8, torch.float32, 3, False, "own"),
    "gpt2, turned, head repeated, converted": ("gpt2", 8, torch.bfloat16, 1, True, "float32"),
    "gpt_neox, in turns, one file": ("gpt_neox", 11, torch.bfloat16, 1, False, "own"),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="anonymous memory is read from /proc")
@pytest.mark.parametrize("case", CASES)
def test_anonymous_memory(case: str, tmp_path: Path) -> None:
    family, depth, dtype, shards, copied, wanted = CASES[case]
    write(tmp_path / "model", family, depth, dtype, shards, copied)
    write(tmp_path / "small", family, 1, dtype, 1)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model"), wanted, str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, touched = map(int, done.stdout.split())
    assert weights > 100e6
    assert weights < touched < LIMIT * weights
