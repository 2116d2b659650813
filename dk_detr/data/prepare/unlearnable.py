"""Official files hold boxes without area. Scorers count them, so they stay; a loader must know not to learn them."""

from typing import Any


class Marker:
    """Marks boxes without area with `"ignore": 1`, which `load_coco_format` leaves out and COCO's scorer does not."""

    def __init__(self) -> None:
        self.ids: list[Any] = []

    def __call__(self, annotation: dict[str, Any]) -> dict[str, Any]:
        """The annotation, marked if it has no area."""
        if annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0:
            return annotation
        self.ids.append(annotation["id"])
        return {**annotation, "ignore": 1}

    def notes(self) -> tuple[str, ...]:
        """What to tell the user."""
        if not self.ids:
            return ()
        first = ", ".join(map(str, self.ids[:3]))
        return (f'{len(self.ids)} boxes without area are kept for evaluation and not trained on ("ignore"): {first} …',)
