"""What regions are charged for their words. N regions, K words."""

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST = 1e-7  # of the probability of a wrong word


def word_loss(logits: Tensor, labels: Tensor, background_weight: float = 1.0, focal_exponent: float = 0.0) -> Tensor:
    """Cross-entropy over words and background.

    Args:
        logits: (N, K + 1), the last for background. labels: (N,), K for background.
        background_weight: of regions that show nothing. focal_exponent: of 1 less the probability of the right label,
            which multiplies the loss of a region; 0 for none.

    Returns: without the exponent the sum over the sum of weights (LVIS); with it a mean over regions (COCO). 0 of none.

    Source: RegionCLIP's release; the two forms are normalised in these two ways there.
    """
    if not len(labels):
        return logits.sum() * 0
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    weights = torch.where(labels == logits.shape[1] - 1, background_weight, 1.0)
    if not focal_exponent:
        return (losses * weights).sum() / weights.sum().clamp(min=1e-12)
    wrong = (-torch.expm1(-losses)).clamp(min=LEAST)  # 0 has no gradient to a power below 1
    return (losses * weights * wrong.pow(focal_exponent)).mean()


def kept_regions(probabilities: Tensor, threshold: float) -> Tensor:
    """(N,) bool: regions whose highest probability of the teacher is above the threshold. If there is none, all.

    Args:
        probabilities: (N, K) of the teacher.
    """
    kept = probabilities.amax(-1) > threshold
    return kept if bool(kept.any()) else torch.ones_like(kept)


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """(N, K) logits over the pool of both -> the divergence of the student from the teacher, mean over regions."""
    divergence = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True)
    return divergence.sum(-1).mean()


def contrastive_loss(logits: Tensor, concept: Tensor) -> Tensor:
    """Each region is to find its concept among those of all regions.

    A concept that m regions have stands for m columns: -log(m e^s / Σ_c m_c e^s_c), as in the release.

    Args:
        logits: (N, K) of the student over the pool. concept: (N,) of the teacher.
    """
    columns = logits[:, concept]
    same = concept[:, None] == concept
    right = columns.masked_fill(~same, -torch.inf).logsumexp(1)
    return (columns.logsumexp(1) - right).mean()


def image_text_loss(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """(N, E) rows of images and their captions -> cross-entropy of each with its partner, mean of both directions."""
    with torch.autocast(images.device.type, enabled=False):
        logits = F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T / temperature
    partner = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
