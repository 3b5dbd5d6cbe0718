"""`torch.compile` of each network's tensor part in one graph; generated code for one network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import textseg.models
from tests.models.stand_ins import CAPTIONS, BatchesInMemory, make_batch, pictures, quiet_trainer
from tests.models.tiny import NETWORKS
from textseg.training import CompiledTraining

pytestmark = pytest.mark.slow
# Few operations: generating code for the U-Net's takes minutes where nothing is cached.
FEW = {
    "image_encoder": "tu-test_convnext",
    "pretrained": False,
    "decoder_options": {"encoder_depth": 2, "decoder_channels": [16, 8]},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_compiled_tensor_part_gives_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    network: Any = getattr(textseg.models, name)(**NETWORKS[name])
    network.prepare_captions(CAPTIONS, training=True)
    network.eval()
    torch.compiler.reset()
    compiled = torch.compile(network.forward_features, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        text = network.encode_text(CAPTIONS)
        plain, fast = (
            f(pictures(2, 64, 96), text).logits for f in (network.forward_features, compiled)
        )
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "backend"),
    [
        ("ImageBaseline", FEW, "inductor"),
        *((name, settings, "aot_eager") for name, settings in NETWORKS.items()),
    ],
)
def test_compiled_training_steps_are_those_of_a_plain_training(
    name: str, settings: dict[str, Any], backend: str
) -> None:
    batches = BatchesInMemory([make_batch(4, 64, 64, seed=seed) for seed in range(2)])
    torch.compiler.reset()
    counters.clear()
    losses, networks = [], []
    for callbacks in ([], [CompiledTraining(backend)]):
        torch.manual_seed(0)
        network: Any = getattr(textseg.models, name)(**settings, warmup=0.0)
        assert not counters["frames"]
        trainer = quiet_trainer(max_epochs=1, limit_val_batches=1, callbacks=callbacks)
        trainer.fit(network, batches)
        losses.append(trainer.callback_metrics["train/loss"])
        networks.append(network)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()
    assert "forward_features" not in vars(networks[1])  # explanations see the plain one
