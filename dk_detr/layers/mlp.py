"""MLP: linear layers with ReLU between them."""

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """`num_layers` linear layers, `in_channels` -> `hidden_channels` … -> `out_channels`, ReLU in between.

    Args:
        init: of the weights: "default", PyTorch's, as heads have it, or "xavier", as all of a DETR's transformer.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, num_layers: int, init: str = "default"
    ) -> None:
        super().__init__()
        widths = [in_channels] + [hidden_channels] * (num_layers - 1) + [out_channels]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        if init == "xavier":
            for layer in self.layers:
                nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_channels) -> (…, out_channels)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def box_head(channels: int) -> MLP:
    """The three-layer MLP that predicts box offsets, zero at the start: first boxes are the references."""
    head = MLP(channels, channels, 4, num_layers=3)
    last = head.layers[-1]
    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return head
