"""A KV cache that never grows past a bound: attention sinks and a recent window (StreamingLLM, Xiao et al., 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.positions import Rope, Tables, rotate


@dataclass(frozen=True)
class Streaming:
    """What a model remembers when it goes on without end.

    window: the most recent tokens that are kept, the newest among them. sinks: how many of the first ones are kept too.
    """

    window: int
    sinks: int = 4

    def cache(self, model: Model) -> "SinkCache":
        """An empty cache for a model; UserError where the model or these sizes do not allow one."""
        if self.window < 2 or self.sinks < 0:
            raise UserError(
                f"--window {self.window} --sinks {self.sinks}: a window has 2 tokens at least, sinks are 0 or more"
            )
        if model.encoders:
            raise UserError(
                f"--window: {model.family} is an encoder-decoder, which writes texts of its own; leave it out"
            )
        if model.body.virtual_tokens is not None:
            raise UserError(
                "--window: this adapter stands before the text with virtual tokens, which a window would forget; "
                "leave it out"
            )
        if model.body.max_positions is not None:
            raise UserError(
                f"--window: {model.family} learns its positions, which cannot be given anew to tokens that were read; "
                "take a model with RoPE or ALiBi"
            )
        if self.window + self.sinks > model.context:
            raise UserError(
                f"--window {self.window} and --sinks {self.sinks} do not fit the model's context "
                f"of {model.context} tokens"
            )
        return SinkCache(len(model.body.blocks), self.sinks, self.window, model.body.rope)


class SinkCache:
    """Keys and values of the first `sinks` tokens of each row and of its last ones, `sinks + window` at most.

    Positions are places in the cache, not in the text: what was left out leaves no gap, and no position is higher than
    the model was trained on. Keys are therefore kept as they were before rotation and turned to their present place
    each time. It implements `parts.state.State`.
    """

    def __init__(self, layers: int, sinks: int, window: int, rope: Rope | None = None):
        self.gapless = True
        self.sinks, self.window = sinks, window
        self._layers, self._rope = layers, rope
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._real: Tensor | None = None
        self._kept: Tensor | None = None  # which slots of the earlier ones stay, while a forward pass is on
        self._tables: tuple[Tables, Tables] | None = None

    @property
    def length(self) -> int:
        """How many slots are held."""
        return 0 if self._real is None else self._real.shape[1]

    def pieces(self, time: int) -> list[slice]:
        """A prompt cut so that each piece fits: what the cache holds, then half a window at a time."""
        step = max(1, self.window // 2)
        begins = [0, *range(self.sinks + self.window, time, step)]
        return [slice(begin, end) for begin, end in zip(begins, [*begins[1:], time], strict=True)]

    def place(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None
    ) -> tuple[Int[Tensor, "batch time"], Sequence[Int[Tensor, "batch keys"]]]:
        """Make room, then number the slots of each row from its first real token (see `parts.state.State`)."""
        real = torch.zeros_like(ids[:, :0], dtype=torch.bool) if self._real is None else self._real
        self._kept = self._make_room(real, ids.shape[1])
        if self._kept is not None:
            real = real.gather(1, self._kept)
        self._real = torch.cat((real, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask), 1)
        self.gapless = bool(self._real.all())
        positions = (self._real.long().cumsum(1) - 1).clamp(min=0)
        query = positions[:, real.shape[1] :]
        if self._rope is not None:
            self._tables = self._rope.tables(query, torch.float32), self._rope.tables(positions, torch.float32)
        return query, [positions.masked_fill(~self._real, -1)] * self._layers

    def _make_room(self, real: Tensor, new: int) -> Tensor | None:
        """Which slots stay, [batch, kept]: padding goes first, then the oldest tokens after the sinks."""
        drop = real.shape[1] + new - self.sinks - self.window
        if drop <= 0:
            return None
        if drop > real.shape[1] - self.sinks:
            raise ValueError(f"{new} tokens at once do not fit a window of {self.window}: feed them in pieces")
        pads = (~real).sum(1, keepdim=True)
        slots = torch.arange(real.shape[1], device=real.device)
        blank = torch.minimum(pads, torch.tensor(drop, device=real.device))
        old = (slots >= pads + self.sinks) & (slots < pads + self.sinks + drop - blank)
        gone = (slots < blank) | old
        return (~gone).nonzero()[:, 1].view(real.shape[0], -1)

    def extend(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_heads time head_dim"],
        v: Float[Tensor, "batch kv_heads time head_dim"],
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """Remember a layer's new keys, turned back to no position; return all keys, turned to their present places."""
        dtype = k.dtype
        if self._tables is not None:
            k = rotate(k.float(), _backwards(self._tables[0])).to(dtype)
        if layer == len(self._keys):
            self._keys.append(k[:, :, :0])
            self._values.append(v[:, :, :0])
        self._keys[layer] = torch.cat((self._staying(self._keys[layer]), k), 2)
        self._values[layer] = torch.cat((self._staying(self._values[layer]), v), 2)
        if self._tables is None:
            return self._keys[layer], self._values[layer]
        return rotate(self._keys[layer].float(), self._tables[1]).to(dtype), self._values[layer]

    def _staying(self, x: Tensor) -> Tensor:
        if self._kept is None:
            return x
        return x.gather(2, self._kept[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch, in this order: finished sequences leave."""
        self._keys, self._values = [x[rows] for x in self._keys], [x[rows] for x in self._values]
        self._real = None if self._real is None else self._real[rows]


def _backwards(tables: Tables) -> Tables:
    """The rotation that undoes one, whatever it was magnified by."""
    size = tables.cos.square() + tables.sin.square()
    return tables._replace(cos=tables.cos / size, sin=-tables.sin / size)
