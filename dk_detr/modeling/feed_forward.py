"""FeedForward: what follows attention in every layer of encoder and decoder. C channels."""

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.layers import Dropout
from dk_detr.utils import require


class FeedForward(nn.Module):
    """Two linear layers with an activation between, added to the input and normalised after (post-norm).

    Args:
        activation: "relu", or "prelu", whose slope below zero is learned.
    """

    @configurable
    def __init__(self, channels: int, hidden_channels: int, dropout: float, activation: str = "relu") -> None:
        super().__init__()
        require("MODEL.DETR.ACTIVATION", activation, ("relu", "prelu"))
        self.linear1 = nn.Linear(channels, hidden_channels)
        self.linear2 = nn.Linear(hidden_channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = Dropout(dropout)
        self.prelu = nn.PReLU() if activation == "prelu" else None
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        sizes = {"channels": detr.CHANNELS, "hidden_channels": detr.FFN_CHANNELS}
        return {**sizes, "dropout": detr.DROPOUT, "activation": detr.ACTIVATION}

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)."""
        # As rows: torch makes copies to differentiate what is done in place to an output of more dimensions, a view.
        rows = self.linear1(x.flatten(0, -2))
        rows = self.dropout(self.prelu(rows)) if self.prelu else self.dropout.after_relu_(rows)
        return self.norm(x + self.dropout(self.linear2(rows)).view_as(x))
