"""Keep the projection into the space of the text: features may change, but not how they are read."""

from torch import nn

from dk_detr.engine.keep.keeper import Keeper
from dk_detr.modeling import Classifier


class ClassifierProjection(Keeper):
    """The linear layers of the text classifier do not train. Temperature and calibration never do."""

    @classmethod
    def freeze(cls, model: nn.Module) -> list[str]:
        """See `Keeper`."""
        frozen = []
        for place, module in model.named_modules():
            if isinstance(module, Classifier) and not place.startswith("extensions."):
                frozen += [f"{place}.{name}" for name, _ in module.named_parameters()]
                module.requires_grad_(False)
        if not frozen:
            raise ValueError(
                f'SOLVER.KEEP names "classifier_projection", and this {type(model).__name__} '
                "(MODEL.META_ARCHITECTURE) has no classifier of MODEL.DETR.CLASSIFIER: take it out."
            )
        return frozen
