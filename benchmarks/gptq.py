"""GPTQ of a model of GPT-2's shape (124M parameters, random weights): seconds and memory.

    python benchmarks/gptq.py --work DIR [--windows 128] [--window 512]     # goal: 10 minutes on two cores

Windows are random tokens in batches of 4,096, as `langwright compress --method gptq --calibrate` makes them of a text.
"""

import argparse
import resource
import shutil
import time
from pathlib import Path

import torch

from langwright.compression.quantise import compress_folder
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import OpenedFolder, new_model, save_model
from langwright.models.surgery.quantise import scheme_of


def main() -> None:
    """Write the model where it is not there, compress it, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--window", type=int, default=512)
    chosen = parser.parse_args()
    source, out = chosen.work / "gpt2-124M", chosen.work / "gpt2-124M-int4"
    if not (source / "langwright.json").exists():
        save_model(new_model("gpt2", GPT2Config(), seed=0), None, source)
    shutil.rmtree(out, ignore_errors=True)
    ids = torch.randint(GPT2Config().vocab_size, (chosen.windows, chosen.window))
    began = time.perf_counter()
    compress_folder(OpenedFolder(source), out, scheme_of("int4"), "gptq", ids.split(max(1, 4096 // chosen.window)))
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    size = chosen.windows * chosen.window
    print(f"{size:,} tokens, {torch.get_num_threads()} threads: {seconds:.0f} s, at most {peak:.0f} MB in memory")


if __name__ == "__main__":
    main()
