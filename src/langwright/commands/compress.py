"""langwright compress: a model whose linear layers are quantised."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from langwright.base.console import print_json, say
from langwright.base.errors import UserError, check_flag
from langwright.commands._calibration import Calibrating, Measuring, calibration_windows, compared, print_change
from langwright.compression.quantise import FLOATS, Method, cast_folder, compress_folder, refuse_folders
from langwright.models.folder import OpenedFolder
from langwright.models.surgery.quantise import BITS, Scheme, scheme_of


def compress(
    model: Path,
    out: Path,
    *,
    to: Literal["int8", "w8a8", "int4", "int3", "nf4", "fp4", "bfloat16", "float16"],
    method: Method = "rtn",
    calibrating: Calibrating = Calibrating(),
    group_size: int | None = None,
    asymmetric: bool = False,
    measuring: Measuring = Measuring(),
    json: bool = False,
) -> None:
    """Quantise the linear layers of a model, and report what that costs and saves.

    Args:
        model: the folder of the model to begin with, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
        out: the new model folder.
        to: int8 (rows), int4 or int3 (groups of 64), nf4 or fp4 (blocks of 64 with double quantisation); w8a8, weights
            and activations in int8; bfloat16 or float16, all tensors.
        method: rtn rounds to the nearest; gptq makes the error of each column good in the columns left; awq scales
            columns by their activations and cuts outliers; smoothquant, for w8a8, moves outliers into the weights.
        calibrating: the text that methods other than rtn look at.
        group_size: columns of int4 and int3 that share a scale.
        asymmetric: groups of int4 and int3 with a zero each, which errs less; `transformers` does not open these.
        measuring: the text that the model is measured on before and after.
        json: print the result as JSON.
    """
    scheme = _scheme(to, method, group_size, asymmetric)
    if method == "rtn":
        calibrating.refuse("goes with --method gptq, awq or smoothquant")
    opened = OpenedFolder(model, measuring.ignore_field)
    refuse_folders(opened, out)

    def make() -> dict[str, Any]:
        if scheme is None:
            return {**cast_folder(opened, out, to)}
        shown = calibration_windows(opened, calibrating, measuring.field) if method != "rtn" else ()
        return asdict(compress_folder(opened, out, scheme, method, shown))

    report = compared(opened, out, make, measuring)
    if json:
        print_json(report)
        return
    weights = f"{report['weights']:,} weights in {to}, {report['bits_per_weight']:.3f} bits each; " if scheme else ""
    print(f"{weights}all tensors {report['bytes_before'] / 2**20:.2f} -> {report['bytes_after'] / 2**20:.2f} MiB")
    if scheme:
        print(f"largest relative error of a tensor: {report['largest_relative_error']:.4f} ({report['worst_tensor']})")
    print_change(report)
    say(f"wrote {out}")


def _scheme(to: str, method: Method, group_size: int | None, asymmetric: bool) -> Scheme | None:
    """What the flags ask for; None for other floats. UserError for flags that do not go together."""
    groups = to in BITS
    if (group_size is not None or asymmetric) and not groups:
        raise UserError(f"--{'asymmetric' if asymmetric else 'group-size'}: goes with --to {' or '.join(BITS)}")
    if group_size is not None:
        check_flag("group_size", group_size, group_size > 0 and group_size % 4 == 0, "a multiple of 4")
    if to in FLOATS:
        if method != "rtn":
            raise UserError(f"--method {method}: --to {to} rounds each number by itself")
        return None
    if method == "smoothquant" and to != "w8a8":
        raise UserError(f"--method smoothquant: goes with --to w8a8, whose activations are rounded, not with {to}")
    return replace(scheme_of(to), group=group_size, symmetric=not asymmetric)
