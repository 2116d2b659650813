"""How well objects are named whose boxes are given: no detection is missed, no box is loose."""

import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

logger = logging.getLogger(__name__)
NAMED, CLASSES = "named", "object_classes"


class NamingEvaluator(DatasetEvaluator):
    """Share of the objects that get their own name, among all words asked for.

    Args:
        names: in the order in which classes count. novel: those that training never saw.
        groups: further named sets of names.
    """

    def __init__(self, names: Sequence[str], novel: Collection[str], groups: Mapping[str, Collection[str]]) -> None:
        base = [name for name in names if name not in novel]
        parts: dict[str, Collection[str]] = {"": names, **({"-base": base, "-novel": novel} if novel else {})}
        parts |= {f"-{name}": members for name, members in groups.items()}
        self._groups = {key: torch.tensor([name in members for name in names]) for key, members in parts.items()}
        self.reset()

    def reset(self) -> None:
        """Forget all objects."""
        self._right = torch.zeros(len(self._groups[""]), dtype=torch.long)
        self._seen = self._right.clone()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take one batch: `inputs` carry "object_classes" (n,), `outputs` "named" (n,), class indices both."""
        for image, output in zip(inputs, outputs):
            classes: Tensor = image[CLASSES]
            right = output[NAMED].cpu() == classes
            self._seen += classes.bincount(minlength=len(self._seen))
            self._right += classes[right].bincount(minlength=len(self._seen))

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        """{"naming": {"top1": points, "top1-<group>": points}}, nan for a group without an object; None on all but the
        main process."""
        gathered = comm.gather((self._right, self._seen), dst=0)
        if not comm.is_main_process():
            return None
        right, seen = (sum(counts) for counts in zip(*gathered))
        of_groups = {key: (right[members].sum(), seen[members].sum()) for key, members in self._groups.items()}
        points = {f"top1{key}": 100 * (hits.double() / objects).item() for key, (hits, objects) in of_groups.items()}
        logger.info("Names of given boxes: %s", ", ".join(f"{key} {share:.2f}" for key, share in points.items()))
        return OrderedDict(naming=points)
