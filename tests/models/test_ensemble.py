"""Averaging at test time, against means worked out by numpy from the networks' own logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.captions.modes import swap_sides
from tests.models.stand_ins import pictures
from tests.models.tiny import NETWORKS, tiny
from textseg.encoders import reads_text
from textseg.errors import UserError
from textseg.models.ensemble import Ensemble

TEXTS = ["small lesion in the upper left", "large lesion in the lower right"]
MIRRORED = ["small lesion in the upper right", "large lesion in the lower left"]
ODD = "large lesion in the rigth lung"  # a misspelled side
ALL = [*TEXTS, ODD, "small lesion", ""]


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return {name: tiny(name, ALL).eval() for name in NETWORKS}


def logits_of(network: Any, image: Tensor, text: list[str]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return network(image, text).logits.numpy()


def by_hand(
    network: Any, image: Tensor, text: list[str], mirrored: list[str]
) -> NDArray[np.float64]:
    """(f(x, t) + M f(M x, m(t))) / 2, mirrored and averaged by numpy."""
    flipped = torch.from_numpy(image.numpy()[..., ::-1].copy())
    back = logits_of(network, flipped, mirrored)[..., ::-1]
    return (logits_of(network, image, text).astype(np.float64) + back) / 2


# --- the mirror image --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_flip_is_the_mean_with_the_mirrored_image_and_swapped_words(
    networks: dict[str, Any], name: str
) -> None:
    image, net = pictures(2), networks[name]
    got = logits_of(Ensemble([net], tta="flip", mirror_text=swap_sides), image, TEXTS)
    wanted = by_hand(net, image, TEXTS, MIRRORED)
    assert got == pytest.approx(wanted, abs=1e-5)
    assert np.abs(wanted - logits_of(net, image, TEXTS)).max() > 1e-4, "the mirror image tells more"


@pytest.mark.parametrize("name", NETWORKS)
def test_with_flip_a_mirrored_image_and_caption_give_the_mirrored_result(
    networks: dict[str, Any], name: str
) -> None:
    image, net = pictures(2), networks[name]
    mirroring = Ensemble([net], tta="flip", mirror_text=swap_sides)
    one = logits_of(mirroring, image, TEXTS)
    other = logits_of(mirroring, image.flip(-1), MIRRORED)[..., ::-1]
    assert other == pytest.approx(one, abs=1e-6)
    alone = logits_of(net, image.flip(-1), MIRRORED)[..., ::-1]
    assert np.abs(alone - logits_of(net, image, TEXTS)).max() > 1e-4


def test_a_caption_without_a_side_or_without_words_is_mirrored_as_it_is(
    networks: dict[str, Any],
) -> None:
    image, text = pictures(2), ["small lesion", ""]
    for name in ("LSMS", "TMC"):
        got = logits_of(Ensemble([networks[name]], tta="flip", mirror_text=swap_sides), image, text)
        assert got == pytest.approx(by_hand(networks[name], image, text, text), abs=1e-5)


def test_a_row_whose_caption_cannot_be_mirrored_is_that_of_the_network_alone(
    networks: dict[str, Any],
) -> None:
    image, net = pictures(3), networks["LSMS"]
    text = [TEXTS[0], ODD, TEXTS[1]]
    mirroring = Ensemble([net], tta="flip", mirror_text=swap_sides)
    got, alone = logits_of(mirroring, image, text), logits_of(net, image, text)
    assert (got[1] == alone[1]).all()
    wanted = by_hand(net, image, text, [MIRRORED[0], ODD, MIRRORED[1]])
    assert got[[0, 2]] == pytest.approx(wanted[[0, 2]], abs=1e-5)
    assert (logits_of(mirroring, image, [ODD] * 3) == logits_of(net, image, [ODD] * 3)).all()


def test_captions_that_cannot_be_mirrored_are_counted_and_told_of_once(
    networks: dict[str, Any],
) -> None:
    mirroring = Ensemble([networks["LSMS"]], tta="flip", mirror_text=swap_sides)
    with pytest.warns(UserWarning, match="1 of 5") as warned:
        mirroring.prepare_captions(ALL, training=False)
    assert len(warned) == 1
    assert mirroring.unmirrored(ALL) == 1
    assert Ensemble([networks["LSMS"]] * 2).unmirrored(ALL) == 0, "nothing is to be mirrored"


def test_a_network_without_text_needs_no_words(networks: dict[str, Any]) -> None:
    image, net = pictures(2), networks["ImageBaseline"]
    mirroring = Ensemble([net], tta="flip")
    got = logits_of(mirroring, image, [ODD, ""])
    assert got == pytest.approx(by_hand(net, image, ["", ""], ["", ""]), abs=1e-5)
    assert mirroring.unmirrored(ALL) == 0
    assert not reads_text(mirroring)
    assert reads_text(Ensemble([networks["LSMS"], net]))


def test_in_an_ensemble_each_network_is_mirrored_by_its_own_need_of_words(
    networks: dict[str, Any],
) -> None:
    image, pair = pictures(1), [networks["ImageBaseline"], networks["LSMS"]]
    got = logits_of(Ensemble(pair, tta="flip", mirror_text=swap_sides), image, [ODD])
    mirrored = by_hand(pair[0], image, [ODD], [ODD])
    assert got == pytest.approx((mirrored + logits_of(pair[1], image, [ODD])) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"tta": "flipp"}, "tta='flipp'"), ({"tta": "flip"}, "mirror_text")],
)
def test_a_wrong_tta_is_refused(
    networks: dict[str, Any], settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        Ensemble([networks["LSMS"]], **settings)


# --- several networks --------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_logits_of_networks_of_any_class(
    networks: dict[str, Any],
) -> None:
    image, members = pictures(2), list(networks.values())
    ensemble = Ensemble(members)
    wanted = np.mean([logits_of(member, image, TEXTS) for member in members], axis=0)
    assert logits_of(ensemble, image, TEXTS) == pytest.approx(wanted, abs=1e-5)
    backwards = Ensemble(members[::-1])
    assert logits_of(backwards, image, TEXTS) == pytest.approx(wanted, abs=1e-5)
    assert ensemble.network_name == " + ".join(NETWORKS)
    assert ensemble.ensemble == tuple(NETWORKS)


def test_a_network_twice_is_the_network(networks: dict[str, Any]) -> None:
    image, net = pictures(2), networks["TMCA"]
    assert (logits_of(Ensemble([net, net]), image, TEXTS) == logits_of(net, image, TEXTS)).all()


def test_the_mean_is_taken_in_float32_whatever_the_precision(networks: dict[str, Any]) -> None:
    image, net = pictures(2), networks["LSMS"]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        single = net(image, TEXTS).logits
        mean = Ensemble([net, networks["TMC"]])(image, TEXTS).logits
        other = networks["TMC"](image, TEXTS).logits
    assert mean.dtype == torch.float32
    assert mean.numpy() == pytest.approx((single.float() + other.float()).numpy() / 2)


def test_an_ensemble_holds_no_copy_of_its_members_among_its_settings(
    networks: dict[str, Any],
) -> None:
    assert not Ensemble([networks["LSMS"]] * 2).hparams


def test_an_ensemble_is_neither_trained_nor_explained(networks: dict[str, Any]) -> None:
    ensemble = Ensemble([networks["LSMS"], networks["TMC"]])
    with pytest.raises(UserError, match="2 networks"):
        ensemble.explain(pictures(1), TEXTS[:1])
    with pytest.raises(UserError, match="train"):
        ensemble.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=1.0)


def test_with_flip_a_network_is_explained_on_the_image_as_it_is(networks: dict[str, Any]) -> None:
    image, net = pictures(1), networks["LSMS"]
    maps = Ensemble([net], tta="flip", mirror_text=swap_sides).explain(image, TEXTS[:1], "left")
    own = net.explain(image, TEXTS[:1], "left")
    assert maps.keys() == own.keys()
    assert all(torch.equal(maps[name], own[name]) for name in own)
