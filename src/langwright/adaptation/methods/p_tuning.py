"""P-tuning (Liu et al., 2021): vectors before every text that an encoder makes of a table.

Once they are trained, the encoder's output is all that is needed.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from langwright.adaptation.methods.prompt_tuning import SoftPromptMethod
from langwright.adaptation.settings import Holds, Table, holds, setting


class LSTM(nn.Module):
    """An LSTM that reads the virtual tokens in both directions, and two linear layers."""

    def __init__(self, dim: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden, layers, dropout=dropout, bidirectional=True, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, dim))

    def forward(self, table: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        made: Tensor = self.mlp(self.lstm(table)[0])
        return made


@dataclass(frozen=True)
class PTuning(SoftPromptMethod):
    """Vectors before every text, made by an encoder of a table.

    Args:
        tokens: how many virtual tokens stand before every text.
        encoder: what makes them: mlp, three linear layers with ReLU, or lstm, read in both directions and followed by
            two layers.
        hidden: width of the encoder's inner layers; that of the model unless given.
        layers: of the LSTM.
        dropout: between those.
        submodules: as in `PromptTuning`.
    """

    peft_type: ClassVar[str] = "P_TUNING"
    peft_fields: ClassVar[Table] = {
        **SoftPromptMethod.peft_fields,
        "encoder_reparameterization_type": Holds("encoder", words={"MLP": "mlp", "LSTM": "lstm"}),
        **holds(encoder_hidden_size="hidden", encoder_num_layers="layers", encoder_dropout="dropout"),
    }

    tokens: int = setting(20, "size", "virtual_tokens")
    encoder: Literal["mlp", "lstm"] = setting("mlp", option="prompt_encoder")
    hidden: int | None = setting(None, "size", "encoder_width")
    layers: int = setting(2, "size")
    dropout: float = setting(0.0, "share")
    submodules: int = setting(1, "size")

    def table(self, like: Tensor, rows: int) -> tuple[Tensor, nn.Module | None]:
        dim = like.shape[1]
        hidden = self.hidden or dim
        if self.encoder == "lstm":
            made: nn.Module = LSTM(dim, hidden, self.layers, self.dropout)
        else:
            inner = (nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
            made = nn.Sequential(nn.Linear(dim, hidden), *inner, nn.Linear(hidden, dim))
        return torch.randn(rows, dim), made
