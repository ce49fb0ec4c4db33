"""langwright export: a model in a form that other programs open."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from langwright.base.console import print_json, say
from langwright.base.errors import UserError
from langwright.base.files import folder_lock, refuse_file
from langwright.base.gguf import SUFFIX
from langwright.models.folder import OpenedFolder, refuse_out, save_model
from langwright.models.gguf.writing import Type, write_gguf
from langwright.models.surgery.quantise import dequantise, is_quantised
from langwright.pipelines.opening import check_vocabulary
from langwright.text.gguf import tokenizer_fields
from langwright.text.opening import load_tokenizer

GGUF = f"model{SUFFIX}"


def export(
    model: Path,
    out: Path,
    *,
    format: Literal["gguf", "folder"],
    type: Type | None = None,
    ignore_field: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Write a model for llama.cpp and what is built on it, or as a plain folder for transformers and vLLM.

    An adapter is worked into its model first: langwright merge.

    Args:
        model: the folder of the model, a GGUF file, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
        out: the new folder.
        format: gguf writes OUT/model.gguf; folder a Hugging Face folder whose weights are floats.
        type: of the matrices in a GGUF file: f32, f16 (which is the usual one), bf16, q8_0, q4_0, q4_k or q6_k.
        ignore_field: a field of config.json to pass over although it is not understood.
        json: print the result as JSON.
    """
    if type is not None and format != "gguf":
        raise UserError("--type goes with --format gguf")
    if format == "folder":
        refuse_out(out)
    refuse_file(out)
    opened = OpenedFolder(model, ignore_field).require()
    if out.resolve() in (opened.path.resolve(), opened.path.resolve().parent if opened.path.is_file() else None):
        raise UserError(f"{out}: the exported model needs a folder of its own")
    tokenizer = load_tokenizer(model)
    task = opened.task if format == "folder" else opened.family.task
    loaded = opened.model(head=task)
    check_vocabulary(loaded.vocabulary, tokenizer, opened.path)
    if is_quantised(loaded):
        dequantise(loaded.float())
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out, "exporting"):
        if format == "folder":
            save_model(loaded, tokenizer, out, {"command": "export"}, generation=tokenizer.generation())
            result = {"out": str(out)}
        else:
            fields = {"general.name": opened.path.stem, **tokenizer_fields(tokenizer, loaded.vocabulary)}
            written = write_gguf(out / GGUF, loaded, dict(loaded.named_parameters()), fields, type or "f16")
            result = {"out": str(out / GGUF), **asdict(written)}
    if json:
        print_json(result)
        return
    say(f"wrote {result['out']}")
    if format == "gguf":
        kinds = ", ".join(f"{count} tensors in {kind}" for kind, count in written.tensors.items())
        print(f"{written.weights:,} weights, {8 * written.bytes / written.weights:.2f} bits each: {kinds}")
