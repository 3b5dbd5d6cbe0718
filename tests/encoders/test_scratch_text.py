"""Text from scratch: its vocabulary, how that is restored, and captions of any kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.encoders.tiny_text import SMALL, scratch
from tests.forked import forked
from tests.models.stand_ins import CAPTIONS
from textseg.encoders import TextEncoder, restoring
from textseg.errors import UserError


def test_the_same_captions_give_the_same_vocabulary_in_any_order_and_number() -> None:
    states = [
        scratch(captions).get_extra_state() for captions in (CAPTIONS, CAPTIONS[::-1], CAPTIONS * 3)
    ]
    assert states[0] == states[1] == states[2]


def print_vocabulary() -> None:
    print(scratch().get_extra_state()["tokenizer"], flush=True)


def test_the_same_captions_give_the_same_vocabulary_in_another_process(tmp_path: Path) -> None:
    done = forked(print_vocabulary, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == scratch().get_extra_state()["tokenizer"]


def test_scratch_text_refuses_to_run_before_it_has_a_vocabulary() -> None:
    encoder = TextEncoder("scratch", **SMALL)  # type: ignore[arg-type]
    assert encoder.needs_vocabulary
    with pytest.raises(RuntimeError, match="learn_vocabulary"):
        encoder(CAPTIONS)


def test_a_vocabulary_travels_in_the_state_dict_and_is_restored() -> None:
    first = scratch(vocab_size=300)
    with restoring({f"text_encoder.{k}": v for k, v in first.state_dict().items()}):
        second = TextEncoder("scratch", max_tokens=12)
    assert not second.needs_vocabulary
    assert second.dim == 32
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for a, b in zip(first(CAPTIONS), second.eval()(CAPTIONS), strict=True):
            assert torch.equal(a, b)


def test_load_state_dict_alone_brings_the_vocabulary() -> None:
    first, second = scratch(), TextEncoder("scratch", **SMALL)  # type: ignore[arg-type]
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(CAPTIONS).tokens, second.eval()(CAPTIONS).tokens)


def test_a_state_dict_without_text_is_refused_when_restoring() -> None:
    with restoring({"head.weight": torch.zeros(1)}), pytest.raises(UserError, match="text encoder"):
        TextEncoder("scratch")


def test_restoring_ends_with_its_block() -> None:
    with pytest.raises(ZeroDivisionError), restoring(scratch().state_dict()):
        _ = 1 / 0
    assert TextEncoder("scratch", **SMALL).needs_vocabulary  # type: ignore[arg-type]


def test_unknown_text_is_encoded_without_error() -> None:
    tokens, mask, _ = scratch()(["zzz 人 ∆ 7%", "lesion"])
    assert torch.isfinite(tokens).all()
    assert (mask.sum(1) > 2).all()
    assert not torch.equal(tokens[0], tokens[1])


def test_an_empty_caption_is_its_two_special_tokens() -> None:
    tokens, mask, pooled = scratch()(["", CAPTIONS[0]])
    assert mask[0].tolist() == [True, True] + [False] * 10
    torch.testing.assert_close(pooled[0], tokens[0, :2].mean(0))


def test_every_caption_has_the_length_max_tokens() -> None:
    tokens, mask, _ = scratch()(["lesion", "lesion " * 200])
    assert tokens.shape == (2, 12, 32)
    assert mask[1].all()


def test_upper_and_lower_case_are_one_word() -> None:
    encoder = scratch()
    with torch.no_grad():
        assert torch.equal(encoder(["SMALL Lesion"]).tokens, encoder(["small lesion"]).tokens)


@pytest.mark.parametrize("alphabet", ["latin", "chinese"])
def test_captions_of_more_letters_than_the_vocabulary_has_rows_are_still_encoded(
    alphabet: str,
) -> None:
    letters = [chr(0x4E00 + i) for i in range(80)]
    captions = {
        "latin": ["the quick brown fox jumps over the lazy dog", "pack my box with five jugs"],
        "chinese": ["".join(letters[:40]), "".join(letters[40:])],
    }[alphabet]
    encoder = scratch(captions, vocab_size=40)
    first, second = encoder(captions).pooled
    assert not torch.allclose(first, second, atol=1e-3), "both would be unknown tokens alone"


@pytest.mark.parametrize("max_tokens", [0, 2, 600])
def test_a_length_that_cannot_hold_a_word_or_exceeds_the_model_is_a_user_error(
    max_tokens: int,
) -> None:
    with pytest.raises(UserError, match="max_tokens"):
        scratch(max_tokens=max_tokens)
