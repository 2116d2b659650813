"""The classifiers of ViLD: words against a learned background, words against images, and both together.

D layers, B images, Q queries, C channels, K words, E text width.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.modeling.classifiers.cosine_text import CosineText
from dk_detr.modeling.classifiers.scores import ensemble, with_background, with_objectness, without_background


class CosineTextBackground(CosineText):
    """Cosine similarity with text embeddings, and with one that is learned for what is no object, for a softmax.

    Args:
        channels, width, num_projections: see `Classifier`. temperature: of the cosine, 0.01 in ViLD.

    Source: ViLD (ICLR 2022), eq. 2 and 3; the start of the background from its release.
    """

    activation = "softmax"

    @configurable
    def __init__(self, channels: int, width: int, num_projections: int, temperature: float = 0.01) -> None:
        super().__init__(channels, width, num_projections, temperature)
        self.background = nn.Parameter(torch.randn(width) * 0.01)

    @classmethod
    def from_config(cls, cfg: CfgNode, width: int, num_projections: int) -> dict[str, Any]:
        settings = super().from_config(cfg, width, num_projections)
        own = ("channels", "width", "num_projections", "temperature")  # a bias would change no softmax
        return {key: settings[key] for key in own}

    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """See `Classifier`; the background is the last column."""
        background = F.normalize(self.background.float(), dim=0)
        return super().score(projected, torch.cat([text, background[None]]))

    def confidence(
        self, hidden_states: Tensor, text: Tensor, train_text: Tensor, novel: Tensor, objectness: Tensor | None
    ) -> Tensor:
        """See `Classifier`: the share of each word in a softmax with the background."""
        return with_background(self.score(self.project(hidden_states, -1), text)).exp()


class CosineTextObjectness(CosineText):
    """Cosine similarity with text embeddings for features that learn no labels, only what a teacher sees in images.

    These cannot tell an object from nothing, so that the first stage is asked for it.

    Source: ViLD-image (ICLR 2022).
    """

    activation, learns_image_embeddings = "none", True

    def confidence(
        self, hidden_states: Tensor, text: Tensor, train_text: Tensor, novel: Tensor, objectness: Tensor | None
    ) -> Tensor:
        """See `Classifier`: the geometric mean of objectness and the share of each word in a softmax."""
        assert objectness is not None  # combinations.py refuses queries without a first stage
        return with_objectness(without_background(self.score(self.project(hidden_states, -1), text)), objectness).exp()


class CosineTextEnsemble(CosineTextBackground):
    """`CosineTextBackground` with further projections for images: the former learn labels, the latter the teacher's
    embeddings, and neither is bent by what the other learns.

    Args:
        channels, width, num_projections, temperature: see `CosineTextBackground`.
        home_weight: λ of the geometric mean of both scores: the weight of the text projection's score for base words,
            and of the image projection's for novel words.

    Source: ViLD-ensemble (ICLR 2022), eq. 5. There the heads before the projections are two as well.
    """

    learns_image_embeddings = True

    @configurable
    def __init__(
        self, channels: int, width: int, num_projections: int, temperature: float = 0.01, home_weight: float = 2 / 3
    ) -> None:
        super().__init__(channels, width, num_projections, temperature)
        self.home_weight = home_weight
        self.image_projections = nn.ModuleList(nn.Linear(channels, width) for _ in range(num_projections))

    @classmethod
    def from_config(cls, cfg: CfgNode, width: int, num_projections: int) -> dict[str, Any]:
        settings = super().from_config(cfg, width, num_projections)
        return {**settings, "home_weight": cfg.MODEL.DETR.CLASSIFIER.HOME_WEIGHT}

    @property
    def tells_novel(self) -> bool:
        """See `Classifier`."""
        return True

    def forward(self, hidden_states: Tensor, text: Tensor) -> Tensor:
        """See `Classifier`."""
        # Adding nothing keeps the projections of layers that nobody teaches in the graph: DDP waits for every gradient.
        nothing = sum(parameter.sum() * 0 for parameter in self.image_projections.parameters())
        return super().forward(hidden_states, text) + nothing

    def project_image(self, hidden_states: Tensor, layer: int) -> Tensor:
        """See `Classifier`."""
        return self.image_projections[layer % len(self.image_projections)](hidden_states)

    def confidence(
        self, hidden_states: Tensor, text: Tensor, train_text: Tensor, novel: Tensor, objectness: Tensor | None
    ) -> Tensor:
        """See `Classifier`: the words' share with background and the images' share without it."""
        log_text = with_background(self.score(self.project(hidden_states, -1), text))
        log_image = without_background(CosineText.score(self, self.project_image(hidden_states, -1), text))
        return ensemble(log_text, log_image, novel, self.home_weight).exp()
