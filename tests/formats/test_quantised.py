"""The table of quantised weights in docs/formats.md says what is in the files."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from langwright.compression.quantise import compress_folder
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import OpenedFolder, new_model, save_model
from langwright.models.surgery.quantise import KINDS, scheme_of

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8").splitlines()
MODULE = "model.layers.0.mlp.down_proj"
OUTPUTS, INPUTS = 64, 192


def documented(kind: str) -> dict[str, tuple[str, str]]:
    """Name of each tensor of a kind, with dtype and shape."""
    start = PAGE.index("| tensor | in | dtype | shape |") + 2
    rows = [[c.strip(" `") for c in line.strip("|").split("|")] for line in PAGE[start : PAGE.index("", start)]]
    return {name.replace("MODULE", MODULE): (dtype, shape) for name, kinds, dtype, shape in rows if kind in kinds}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_what_is_written(kind: str, tmp_path: Path) -> None:
    config = LlamaConfig(64, 64, 192, 1, 4, max_position_embeddings=16)
    save_model(new_model("llama", config), None, tmp_path / "plain")
    compress_folder(OpenedFolder(tmp_path / "plain"), tmp_path / "small", scheme_of(kind))
    tensors = load_file(tmp_path / "small/model.safetensors")
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{MODULE}.")}
    sizes = {"outputs": OUTPUTS, "inputs": INPUTS, "group": 64, "blocks": OUTPUTS * INPUTS // 64}
    state = found.get(f"{MODULE}.weight.quant_state.bitsandbytes__{kind}")
    sizes["bytes"] = 0 if state is None else len(state)
    wanted = documented(kind)
    assert set(found) == set(wanted)
    for name, (dtype, shape) in wanted.items():
        words = [w for w in shape.strip("[]").split(",") if w]
        assert str(found[name].dtype) == f"torch.{dtype}"
        assert list(found[name].shape) == [-int(-eval(w, {}, sizes) // 1) for w in words]
    text = " ".join(PAGE)
    if state is not None:
        assert all(f"`{key}`" in text for key in json.loads(bytes(state.tolist())))
    record = json.loads((tmp_path / "small/langwright.json").read_text())
    assert all(f"`{key}`" in text for key in record["compressed"])
