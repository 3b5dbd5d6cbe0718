"""Groups partition the parameters; AdamW is fused on a GPU; schedules follow their formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from textseg.errors import UserError
from textseg.optim import adamw, parameter_groups, schedule_factor, warmup_schedule


class Network(nn.Module):
    """A pretrained part, a frozen one, a new one, and a weight two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.words = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.words.weight
        self.temperature = nn.Parameter(torch.tensor(0.0))


def by_name(groups: list[dict]) -> dict[str, dict]:
    return {group["name"]: group for group in groups}


def slow(part: nn.Module) -> list[nn.Parameter]:
    return list(part.parameters())


def test_groups_hold_every_trainable_parameter_exactly_once() -> None:
    network = Network()
    groups = parameter_groups(network, lr=1.0, weight_decay=0.1, pretrained=slow(network.encoder))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable
    AdamW(groups)  # refuses a parameter that is in two groups


def test_a_shared_parameter_counts_as_pretrained_if_one_owner_is() -> None:
    network = Network()
    groups = parameter_groups(network, lr=1.0, weight_decay=0.1, pretrained=slow(network.words))
    holders = [
        group["name"]
        for group in groups
        for parameter in group["params"]
        if parameter is network.head.weight
    ]
    assert holders == ["pretrained/decay"]


def test_parameters_under_two_dimensions_do_not_decay() -> None:
    groups = parameter_groups(Network(), lr=1.0, weight_decay=0.1)
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)


class Exempt(nn.Module):
    """A module that keeps one of its matrices from decaying."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.weight = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))

    def no_weight_decay(self) -> set[str]:
        return {"table", "of_another_version"}


def test_what_a_part_exempts_by_name_does_not_decay() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Sequential(Exempt()))
    groups = by_name(parameter_groups(network, lr=1.0, weight_decay=0.1))
    assert [id(p) for p in groups["new/no_decay"]["params"]] == [id(network[1][0].table)]
    assert groups["new/no_decay"]["weight_decay"] == 0.0
    decaying = [id(p) for p in groups["new/decay"]["params"]]
    assert decaying == [id(network[0].weight), id(network[1][0].weight)]


def test_pretrained_parts_learn_at_their_own_rate() -> None:
    network = Network()
    groups = by_name(
        parameter_groups(
            network,
            lr=0.5,
            weight_decay=0.1,
            pretrained=slow(network.encoder),
            pretrained_lr_scale=0.2,
        )
    )
    encoder = {id(parameter) for parameter in network.encoder.parameters()}
    for name, group in groups.items():
        assert group["lr"] == pytest.approx(0.1 if name.startswith("pretrained") else 0.5)
        for parameter in group["params"]:
            assert (id(parameter) in encoder) == name.startswith("pretrained")


def test_pretrained_text_has_a_rate_of_its_own_where_one_is_given() -> None:
    network = Network()
    encoders = {"pretrained": slow(network.encoder), "text": slow(network.words)}
    settings = {"lr": 2.0, "weight_decay": 0.1, "pretrained_lr_scale": 0.2}
    together = by_name(parameter_groups(network, **settings, **encoders))
    assert set(together) == {"new/no_decay", "pretrained/decay", "pretrained/no_decay"}
    assert any(p is network.words.weight for p in together["pretrained/decay"]["params"])
    for scale in (0.5, 0.0):
        apart = by_name(parameter_groups(network, **settings, **encoders, text_lr_scale=scale))
        assert [p is network.words.weight for p in apart["text/decay"]["params"]] == [True]
        assert apart["text/decay"]["lr"] == 2.0 * scale
        assert apart["pretrained/decay"]["lr"] == pytest.approx(0.4)
        assert len(apart["pretrained/decay"]["params"]) == 1


def test_empty_groups_are_left_out() -> None:
    assert [g["name"] for g in parameter_groups(nn.LayerNorm(3), lr=1.0, weight_decay=0.1)] == [
        "new/no_decay"
    ]
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert parameter_groups(frozen, lr=1.0, weight_decay=0.1) == []


def test_groups_come_in_the_order_of_the_parameters() -> None:
    network = Network()
    first = parameter_groups(network, lr=1.0, weight_decay=0.1, pretrained=slow(network.encoder))
    again = parameter_groups(network, lr=1.0, weight_decay=0.1, pretrained=slow(network.encoder))
    order = {id(parameter): place for place, parameter in enumerate(network.parameters())}
    for one, two in zip(first, again, strict=True):
        places = [order[id(parameter)] for parameter in one["params"]]
        assert places == sorted(places)
        assert [id(parameter) for parameter in two["params"]] == [id(p) for p in one["params"]]


def test_adamw_is_fused_unless_told_otherwise_or_torch_has_no_such_kernel() -> None:
    groups = parameter_groups(Network(), lr=1.0, weight_decay=0.1)
    assert adamw(groups, lr=1.0, clipped=True).defaults["fused"] is True
    assert adamw(groups, lr=1.0, clipped=True, fused=False).defaults["fused"] is None
    elsewhere = parameter_groups(Network().to("meta"), lr=1.0, weight_decay=0.1)
    assert adamw(elsewhere, lr=1.0, clipped=True).defaults["fused"] is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_adamw_is_fused_on_a_gpu() -> None:
    groups = parameter_groups(Network().cuda(), lr=1.0, weight_decay=0.1)
    assert adamw(groups, lr=1.0, clipped=False).defaults["fused"] is True


@pytest.mark.parametrize("clipped", [True, False])
def test_a_fused_step_with_scaled_gradients_is_the_plain_step(clipped: bool) -> None:
    """As in fp16: the loss is scaled up, and clipping sees the gradients scaled down again."""
    torch.manual_seed(0)
    start, inputs = nn.Linear(5, 3).state_dict(), torch.randn(4, 5)
    ends = []
    for fused in (True, False):
        layer = nn.Linear(5, 3)
        layer.load_state_dict(start)
        groups = parameter_groups(layer, lr=0.1, weight_decay=0.1)
        optimizer = adamw(groups, lr=0.1, clipped=clipped, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=fused)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(layer(inputs).square().sum()).backward()
            if clipped:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        ends.append(layer.weight)
    torch.testing.assert_close(ends[0], ends[1])


def learning_rates(
    kind: str, *, total: int, warmup: int, steps: int, floor: float = 0.0
) -> list[float]:
    """The rate every optimizer step really used."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_schedule(
        optimizer, total_steps=total, warmup_steps=warmup, kind=kind, floor=floor
    )
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["poly", "cosine", "constant"])
def test_the_rate_of_every_step_follows_the_formula(kind: str) -> None:
    decay = {
        "poly": lambda x: math.pow(1 - x, 0.9),
        "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
        "constant": lambda x: 1.0,
    }[kind]
    expected = [2.0 * (step + 1) / 4 for step in range(3)]
    expected += [2.0 * decay(step / 7) for step in range(7)]
    rates = learning_rates(kind, total=10, warmup=3, steps=10)
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("floor", [0.05, 1.0])
def test_a_floor_lifts_the_decay_as_torchs_cosine_with_eta_min_and_as_numpys_interpolation(
    floor: float,
) -> None:
    cosine = learning_rates("cosine", total=12, warmup=2, steps=14, floor=floor)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    annealing = CosineAnnealingLR(optimizer, T_max=10, eta_min=2.0 * floor)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        annealing.step()
    assert cosine[2:12] == pytest.approx(expected, rel=1e-9)
    poly = learning_rates("poly", total=12, warmup=2, steps=14, floor=floor)
    shares = np.power(np.linspace(1, 0, 11), 0.9)[:10]
    assert poly[2:12] == pytest.approx(np.interp(shares, [0, 1], [2.0 * floor, 2.0]), rel=1e-9)
    for rates in (cosine, poly):
        assert rates[:2] == pytest.approx([2.0 / 3, 4.0 / 3]), "the warm-up has no floor"
        assert rates[12:] == pytest.approx([2.0 * floor] * 2), "after the end"
    assert learning_rates("constant", total=4, warmup=0, steps=4, floor=floor) == [2.0] * 4


@pytest.mark.parametrize("kind", ["poly", "cosine", "constant"])
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (2, 1), (50, 0), (50, 49), (100_000, 1500)])
def test_no_step_of_the_run_has_a_rate_of_zero(kind: str, total: int, warmup: int) -> None:
    factors = [
        schedule_factor(step, total_steps=total, warmup_steps=warmup, kind=kind)
        for step in range(total)
    ]
    assert min(factors) > 0
    assert max(factors) == 1.0


@pytest.mark.parametrize("kind", ["poly", "cosine"])
def test_the_rate_rises_to_the_peak_and_falls_from_it(kind: str) -> None:
    rates = learning_rates(kind, total=20, warmup=5, steps=20)
    assert rates[:6] == sorted(set(rates[:6]))
    assert rates[5:] == sorted(set(rates[5:]), reverse=True)
    assert rates[5] == 2.0


def test_steps_beyond_the_planned_end_are_harmless() -> None:
    assert learning_rates("poly", total=4, warmup=1, steps=7)[4:] == [0.0] * 3
    assert learning_rates("constant", total=4, warmup=1, steps=7)[4:] == [2.0] * 3


def test_every_group_keeps_its_own_rate() -> None:
    network = Network()
    groups = parameter_groups(network, lr=1.0, weight_decay=0.1, pretrained=slow(network.encoder))
    optimizer = AdamW(groups)
    scheduler = warmup_schedule(optimizer, total_steps=10, warmup_steps=2, kind="cosine")
    for _ in range(5):
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates["pretrained/decay"] == pytest.approx(0.1 * rates["new/decay"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("total", "warmup"), [(10, 10), (10, 11), (0, 0), (10, -1)])
def test_a_warmup_that_does_not_fit_is_the_users_mistake(total: int, warmup: int) -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match=f"warmup_steps={warmup}"):
        warmup_schedule(optimizer, total_steps=total, warmup_steps=warmup, kind="poly")
