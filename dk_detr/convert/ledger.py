"""The ledger of a conversion: what became of every tensor of the source."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dk_detr.convert.names import matching, renamed, some


class Ledger:
    """Each tensor of the source is used, or listed with the reason why not; `check` refuses to leave one out.

    Args:
        state: the tensors of the source.

    Attributes:
        target: the tensors of the result. used: name in the source -> names in the result. listed: name in the source
            (or a part of its tensor) -> reason.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = dict(state)
        self.target: dict[str, Tensor] = {}
        self.used: dict[str, list[str]] = {}
        self.listed: dict[str, str] = {}
        self.tables: dict[str, str] = {}  # all renamings, to say what a missing tensor is called in the source
        self.called: dict[str, str] = {}  # tensors that go by another name here than in the source

    def open(self, template: str = "{rest}") -> Iterator[tuple[str, dict[str, str]]]:
        """Names (with the pieces of the template) that nothing has become of yet."""
        yield from matching([name for name in self.state if not self._done(name)], template)

    def _done(self, name: str) -> bool:
        return name in self.used or name in self.listed

    def get(self, name: str) -> Tensor:
        """A tensor of the source. Raises ValueError where there is none."""
        if name not in self.state:
            raise ValueError(f"{name} is missing among the {len(self.state)} tensors: the checkpoint is not whole.")
        return self.state[name]

    def use(self, name: str, target: str, tensor: Tensor | None = None) -> None:
        """Put a tensor of the source, or what was made of it, into the result. Raises ValueError if one is there."""
        if target in self.target:
            first = next(old for old, new in self.used.items() if target in new)
            raise ValueError(f"Both {first} and {name} would become {target}: the checkpoint mixes two namings.")
        self.used.setdefault(name, []).append(target)
        # A copy: a view would take the whole of what it is a view of along into the file.
        self.target[target] = (self.get(name) if tensor is None else tensor).detach().clone().contiguous()

    def rename(self, table: Mapping[str, str]) -> None:
        """Use tensors as they are, under the name that the table of templates gives them."""
        self.tables.update(table)
        for name, _ in list(self.open()):
            target = renamed(name, table)
            if target is not None:
                self.use(name, target)

    def leave(self, reasons: Mapping[str, str]) -> None:
        """List the tensors of each template with its reason."""
        for template, reason in reasons.items():
            for name, _ in list(self.open(template)):
                self.listed[name] = reason

    def split(self, name: str, targets: Sequence[str], dim: int = 0) -> None:
        """Use equal parts of a tensor, in this order."""
        tensor = self.get(name)
        if tensor.shape[dim] % len(targets):
            raise ValueError(f"{name} {tuple(tensor.shape)} does not divide into {len(targets)} along axis {dim}.")
        for target, part in zip(targets, tensor.chunk(len(targets), dim)):
            self.use(name, target, part)

    def join(self, templates: Sequence[str], target: str) -> None:
        """Use tensors one below the other, in the order of the templates, wherever the first template fits."""
        for _, pieces in list(self.open(templates[0])):
            names = [template.format(**pieces) for template in templates]
            self.use(names[0], target.format(**pieces), torch.cat([self.get(name) for name in names]))
            for name in names[1:]:
                self.used[name] = [target.format(**pieces)]

    def fold(self, copy: str, original: str, reason: str) -> None:
        """List copies of a tensor, after a look whether they are; where only the copy is there, it is the original."""
        for name, pieces in list(self.open(copy)):
            first = original.format(**pieces)
            if first == name:
                continue
            if first not in self.state:
                self.state[first] = self.state.pop(name)
                self.called[first] = name
            elif torch.equal(self.state[first], self.state[name]):
                self.listed[name] = reason
            else:
                raise ValueError(f"{name} should be the same tensor as {first}, and is not.")

    def account(self) -> tuple[dict[str, list[str]], dict[str, str]]:
        """`used` and `listed`, by the very names of the source."""
        used = {self._theirs(name): targets for name, targets in self.used.items()}
        return used, {self._theirs(name): reason for name, reason in self.listed.items()}

    def _theirs(self, name: str) -> str:
        whole, bracket, rows = name.partition("[")
        return self.called.get(whole, whole) + bracket + rows

    def name_in_source(self, target: str) -> str:
        """What a tensor of the result is called in the source, as far as the tables say; "" where they do not."""
        backwards = {new: old for old, new in reversed(self.tables.items())}
        return renamed(target, backwards) or ""

    def check(self) -> None:
        """Raises ValueError for tensors that nothing has become of."""
        left = [f"{name} {tuple(self.state[name].shape)}" for name, _ in self.open()]
        if left:
            raise ValueError(
                f"There is no rule for {len(left)} of the {len(self.state)} tensors: {some(left)}. If they are known "
                "not to matter, --leave with the beginning of their names leaves them out."
            )
