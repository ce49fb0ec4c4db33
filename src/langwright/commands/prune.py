"""langwright prune: a model with weights, heads or layers left out."""

from pathlib import Path
from typing import Any

from langwright.base.console import print_json, say
from langwright.base.errors import UserError, check_flag
from langwright.commands._calibration import Calibrating, Measuring, calibration_windows, compared, print_change
from langwright.compression.prune import (
    Method,
    Pattern,
    pattern_of,
    prune_weights,
    remove_heads,
    remove_layers,
    write_pruned,
)
from langwright.compression.quantise import refuse_folders
from langwright.models.folder import OpenedFolder


def prune(
    model: Path,
    out: Path,
    *,
    method: Method | None = None,
    sparsity: float | None = None,
    pattern: str | None = None,
    heads: int | None = None,
    layers: int | None = None,
    calibrating: Calibrating = Calibrating(),
    measuring: Measuring = Measuring(),
    json: bool = False,
) -> None:
    """Leave weights, heads or layers out of a model; single weights, half of them unless something else is said.

    Args:
        model: the folder of the model to begin with, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
        out: the new model folder. What is left out singly is 0 in it; without heads or layers the model is smaller.
        method: how single weights are chosen, by wanda unless given. magnitude leaves out what is nearest to 0; wanda
            what is so times what it meets; sparsegpt makes good in other weights what is left out.
        sparsity: the share of the linear layers' weights that goes.
        pattern: how many of how many neighbours stay, such as 2:4.
        heads: so many heads of attention go in every layer.
        layers: so many layers go.
        calibrating: the text that shows what matters.
        measuring: the text that the model is measured on before and after.
        json: print the result as JSON.
    """
    given = {"sparsity": sparsity, "pattern": pattern, "heads": heads, "layers": layers}
    named = [f"--{name}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)}: one at a time; prune the result again for the other")
    whole = heads is not None or layers is not None
    if whole and method is not None:
        raise UserError(f"--method {method}: chooses single weights, and has no place beside {named[0]}")
    method, share = method or "wanda", 0.5 if not named else sparsity
    if not whole and method == "magnitude":
        calibrating.refuse("magnitude looks at no text")
    if share is not None:
        check_flag("sparsity", share, 0 < share < 1, "above 0 and below 1")
    try:
        wanted = Pattern(share or 0.0) if pattern is None else pattern_of(pattern)
    except ValueError as error:
        raise UserError(f"--pattern {pattern}: {error}") from None
    opened = OpenedFolder(model, measuring.ignore_field)
    refuse_folders(opened, out)
    opened.require(one_stack=True)
    for name, value, most in (("heads", heads, None), ("layers", layers, opened.config.shape.layers)):
        if value is not None:
            below = None if most is None else getattr(opened.config, most)
            fits = value >= 1 and (below is None or value < below)
            check_flag(name, value, fits, "at least 1" + ("" if below is None else f" and below {below}"))

    def make() -> dict[str, Any]:
        by_size = not whole and method == "magnitude"
        shown = () if by_size else calibration_windows(opened, calibrating, measuring.field)
        loaded = opened.model()
        if layers is not None:
            loaded, gone = remove_layers(loaded, shown, layers)
            return write_pruned(opened, loaded, out, {"layers": gone})
        if heads is not None:
            loaded, of_layers = remove_heads(loaded, shown, heads)
            return write_pruned(opened, loaded, out, {"heads": of_layers})
        prune_weights(loaded, shown, method, wanted)
        return write_pruned(opened, loaded, out, {"method": method, "sparsity": wanted.share, "pattern": pattern})

    report = compared(opened, out, make, measuring)
    if json:
        print_json(report)
        return
    if layers is not None:
        print(f"layers left out: {', '.join(map(str, report['layers']))}")
    if heads is not None:
        print("\n".join(f"layer {i}: heads left out: {', '.join(map(str, h))}" for i, h in enumerate(report["heads"])))
    print(f"{report['parameters']:,} parameters; of the linear layers' weights {report['zeros']:.1%} are 0")
    print_change(report)
    say(f"wrote {out}")
