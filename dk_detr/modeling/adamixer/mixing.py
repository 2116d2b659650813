"""AdaptiveMixing: what a query sampled is mixed by weights that the query makes, over channels, then over points.

B images, Q queries, C channels, G groups of c = C/G channels, P points in, O points out.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class AdaptiveMixing(nn.Module):
    """An MLP-Mixer of two steps for each query and group.

    Args:
        channels: C, a multiple of `groups`. points: P. out_points: O.
    """

    def __init__(self, channels: int, groups: int, points: int, out_points: int) -> None:
        super().__init__()
        self.groups, self.points, self.out_points, self.width = groups, points, out_points, channels // groups
        self.sizes = (self.width**2, out_points * points)
        self.parameter_generator = nn.Linear(channels, groups * sum(self.sizes))
        self.out = nn.Linear(groups * out_points * self.width, channels)
        nn.init.zeros_(self.parameter_generator.weight)  # its bias, PyTorch's own, is what all queries mix by at first
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, sampled: Tensor, content: Tensor) -> Tensor:
        """(B, Q, G, P, c) and (B, Q, C) -> (B, Q, C), to be added to the content."""
        weights = self.parameter_generator(content).unflatten(-1, (self.groups, -1))
        channels, points = weights.split(self.sizes, dim=-1)
        mixed = self._normed(sampled @ channels.unflatten(-1, (self.width, self.width)))
        mixed = self._normed(points.unflatten(-1, (self.out_points, self.points)) @ mixed)
        return self.out(mixed.flatten(2))

    @staticmethod
    def _normed(mixed: Tensor) -> Tensor:
        return F.layer_norm(mixed, mixed.shape[-2:]).relu()
