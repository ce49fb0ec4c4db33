"""Which file of a model folder holds each tensor: one safetensors file, or shards with an index."""

from pathlib import Path

from langwright.base.errors import UserError
from langwright.base.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_index(path: Path) -> dict[str, str]:
    """Tensor -> the file beside the index that holds it.

    Raises UserError where the index is none, or names what is no safetensors file of its own folder.
    """
    index = read_json(path, "the index of the shards")
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise UserError(f'{path}: there is no "weight_map" of tensors to files')
    for name, file in files.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f'{path}: tensor "{name}" is said to be in {file!r}, which is no shard of this folder')
    return files
