"""Without a network the hub's cache is read at once, and what is missing there is said at once."""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from huggingface_hub import constants

from tests.models.stand_ins import write_bert
from textseg.encoders import ImageEncoder, hub
from textseg.encoders.hub import hub_or_cache
from textseg.encoders.pretrained import load
from textseg.errors import UserError
from textseg.models import ImageBaseline


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine that knows no host, where a second try of anything fails the test."""

    def no_address(*_: Any, **__: Any) -> NoReturn:
        raise socket.gaierror("Name or service not known")

    def no_second_try(_: float) -> NoReturn:
        raise AssertionError("the hub is tried again")

    for kind in ("http", "https", "all"):
        for name in (f"{kind}_proxy", f"{kind}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    monkeypatch.setattr(time, "sleep", no_second_try)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub._has_address.cache_clear()
    yield tmp_path / "cache"
    hub._has_address.cache_clear()


def write_cached_bert(cache: Path) -> None:
    """acme/bert as the hub's cache keeps it."""
    kept = cache / "models--acme--bert"
    write_bert(kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")


def test_a_model_of_the_cache_is_read_at_once_and_that_is_said(no_network: Path) -> None:
    write_cached_bert(no_network)
    with pytest.warns(UserWarning, match=r"huggingface.co .* acme/bert is read from the hub's"):
        model, tokenizer = load("acme/bert", pretrained=True)
    assert model.config.hidden_size == 32
    assert tokenizer.get_vocab_size() > 0
    assert not constants.HF_HUB_OFFLINE


def test_a_model_that_is_nowhere_is_said_at_once_with_the_reason(no_network: Path) -> None:
    makers = {
        "text_encoder='acme/bert' is no folder below": lambda: load("acme/bert", pretrained=True),
        "image_encoder='resnet18' could not": lambda: ImageEncoder("resnet18"),
        "image_encoder='hf-hub:acme/net' has no": lambda: ImageEncoder("hf-hub:acme/net"),
        "weights of image_encoder='resnet18'": lambda: ImageBaseline(image_encoder="resnet18"),
        "weights of image_encoder='tu-resnet18'": lambda: ImageBaseline(
            image_encoder="tu-resnet18"
        ),
    }
    for named, make in makers.items():
        with pytest.raises(UserError, match=named) as caught:
            make()
        assert "huggingface.co is not to be found from here" in str(caught.value)
        assert not constants.HF_HUB_OFFLINE


def test_a_cached_file_that_is_broken_is_not_taken_for_a_missing_one(no_network: Path) -> None:
    write_cached_bert(no_network)
    (weights,) = no_network.rglob("model.safetensors")
    weights.write_bytes(b"half of a download")
    with pytest.raises(UserError, match="acme/bert") as caught:
        load("acme/bert", pretrained=True)
    assert "is not to be found" not in str(caught.value)


def test_the_overlays_folder_that_is_not_there_names_its_script(no_network: Path) -> None:
    with pytest.raises(UserError, match=r"experiments/offline/weights\.py"):
        load("weights/minilm", pretrained=True)


def test_a_host_with_an_address_and_a_proxy_are_asked(
    no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with monkeypatch.context() as patch:
            patch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
            with hub_or_cache("acme/bert"):
                assert not constants.HF_HUB_OFFLINE
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
        with hub_or_cache("acme/bert"):
            assert not constants.HF_HUB_OFFLINE
