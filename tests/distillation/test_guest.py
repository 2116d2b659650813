"""A guest lives in a module without belonging to it."""

import copy

import torch
from torch import nn

from dk_detr.distillation.guest import Guest


class Host(nn.Module):
    """A module with a guest."""

    def __init__(self, guest: Guest) -> None:
        super().__init__()
        self.own, self.guest = nn.Linear(2, 2), guest


def test_a_guest_is_no_part_of_its_host() -> None:
    model = nn.Linear(3, 3).eval()
    host = Host(Guest(model))
    assert set(host.state_dict()) == {"own.weight", "own.bias"}
    assert len(list(host.parameters())) == 2 and len(list(host.modules())) == 2
    assert not host.train().guest.on(torch.device("cpu")).training
    assert host.double().guest.on(torch.device("cpu")).weight.dtype == torch.float32


def test_a_deep_copy_of_the_host_shares_the_guest() -> None:
    host = Host(Guest(nn.Linear(3, 3)))
    other = copy.deepcopy(host)
    assert other.guest is host.guest and other.own is not host.own


def test_a_guest_moves_to_where_it_is_asked_and_only_then() -> None:
    journeys = []

    class Traveller:
        def to(self, device: torch.device) -> None:
            journeys.append(device)

    guest, here, there = Guest(Traveller()), torch.device("cpu"), torch.device("meta")
    for device in (here, here, there, there, here):
        guest.on(device)
    assert journeys == [here, there, here]
