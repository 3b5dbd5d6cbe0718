"""`torch.compile` of each network's tensor part, by the default compiler, in one graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import textseg.models
from tests.models.stand_ins import CAPTIONS, pictures
from tests.models.tiny import NETWORKS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NETWORKS)
def test_the_compiled_tensor_part_gives_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    network: Any = getattr(textseg.models, name)(**NETWORKS[name])
    network.on_captions(CAPTIONS, training=True)
    network.eval()
    torch.compiler.reset()
    compiled = torch.compile(network.forward_features, fullgraph=True)
    with torch.no_grad():
        text = network.encode_text(CAPTIONS)
        plain, fast = (
            f(pictures(2, 64, 96), text).logits for f in (network.forward_features, compiled)
        )
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)
