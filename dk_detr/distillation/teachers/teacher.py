"""Teacher: who answers for regions. B images, M candidates, N regions, E width."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from dk_detr.modeling import InitialQueries
from dk_detr.structures import Candidates, Regions, TeacherInput


class Teacher(Protocol):
    """What distillation asks of a teacher.

    Attributes:
        width: E.
    """

    width: int

    def candidates(self, shown: TeacherInput, initial: InitialQueries) -> Candidates:
        """Where it may be asked to look."""

    def ask(self, shown: TeacherInput, regions: Regions) -> Callable[[], Tensor]:
        """Start to encode regions, `query` counting the candidates. Returns a function that waits for (N, E) unit rows
        without gradient."""
