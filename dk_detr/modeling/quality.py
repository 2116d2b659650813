"""Box quality: how well a query's box fits whatever is in it. D layers, B images, Q queries, C channels."""

import torch
from torch import Tensor, nn

from dk_detr.layers import MLP

PLACES = ("first_stage", "decoder")  # in MODEL.DETR.QUALITY.PLACES


class BoxQuality(nn.Module):
    """The IoU of a query's box with the object in it, as a logit; learned where there is one (`criterion.Quality`).

    What is no object is never shown to it, so that an object without a label is no example of nothing, as it is for
    objectness and for words. It judges and does not teach: no gradient reaches the hidden states.

    Args:
        channels: C. number: of heads; layer l takes head l modulo `number`.

    Source: OLN, Kim et al. (RA-L 2022), for two-stage detectors.
    """

    def __init__(self, channels: int, number: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(MLP(channels, channels, 1, 2) for _ in range(number))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(D, B, Q, C) -> (D, B, Q) logits, in full precision."""
        return torch.stack([self.of_layer(rows, layer) for layer, rows in enumerate(hidden_states)])

    def of_layer(self, hidden_states: Tensor, layer: int) -> Tensor:
        """(…, C) of a layer (-1: the last) -> (…) logits, in full precision."""
        return self.heads[layer % len(self.heads)](hidden_states.detach())[..., 0].float()
