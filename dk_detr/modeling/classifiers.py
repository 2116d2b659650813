"""Classifiers: from query features to class logits.

D layers, B images, Q queries, C channels, K classes, E text width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CosineText(nn.Module):
    """Cosine similarity of projected features with text embeddings, over a temperature, for a sigmoid.

    Args:
        channels: C. width: E. num_layers: D, each with its own projection.
        temperature: of the cosine, 0.05 in DK-DETR.
        logit_bias: a fixed number added to all logits; None (the paper) for none.

    Source: DK-DETR (ICCV 2023), eq. 1 and 2.
    """

    def __init__(
        self, channels: int, width: int, num_layers: int, temperature: float = 0.05, logit_bias: float | None = None
    ) -> None:
        super().__init__()
        self.temperature, self.logit_bias = temperature, logit_bias
        self.projections = nn.ModuleList(nn.Linear(channels, width) for _ in range(num_layers))

    def forward(self, hidden: Tensor, text: Tensor) -> Tensor:
        """(D, B, Q, C) features and (K, E) unit text rows -> (D, B, Q, K) logits."""
        return self.score(torch.stack([self.project(x, layer) for layer, x in enumerate(hidden)]), text)

    def project(self, hidden: Tensor, layer: int) -> Tensor:
        """(…, C) features of a layer (-1: the last) -> (…, E) in the space of the text, not normalised."""
        return self.projections[layer](hidden)

    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """(…, E) -> (…, K) logits, in full precision: at this temperature half floats round a logit by 0.01."""
        with torch.autocast(projected.device.type, enabled=False):
            logits = F.linear(F.normalize(projected.float(), dim=-1), text.float()) / self.temperature
        return logits if self.logit_bias is None else logits + self.logit_bias
