"""Words that a vocabulary does not hold, against counts by hand."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.audit.unknown_words import unknown_words
from datamodules.records import Record
from tests.encoders.tiny_text import SMALL, scratch
from tests.models.tiny import tiny
from textseg.encoders import TextEncoder, share_counter
from textseg.encoders.vocabulary import SPECIAL, least_size
from textseg.errors import UserError

CJK = ["".join(chr(0x4E00 + (7 * row + at) % 900) for at in range(10)) for row in range(300)]


def untrained(vocab_size: int = 512) -> TextEncoder:
    return TextEncoder("scratch", vocab_size=vocab_size, **SMALL)  # type: ignore[arg-type]


def test_the_share_of_unknown_tokens_is_that_of_a_count_by_hand() -> None:
    encoder = scratch(["abc de", "fa"])  # letters a b c d e f
    shares = encoder.unknown_shares(["abc de", "abc xyz", "xyz", "", "xyz, abc", "abc xyz"])
    # A word with one unknown letter is one [UNK]; the comma was never seen and is another.
    assert shares == [0, 0.5, 1, 0, 2 / 3, 0.5]


def test_what_is_cut_off_is_not_counted() -> None:
    encoder = scratch(["abc"], max_tokens=4)
    assert encoder.unknown_shares(["abc abc xyz xyz"]) == [0]


def test_a_small_vocabulary_over_many_characters_warns_in_training_and_says_what_would_do() -> None:
    least = len(SPECIAL) + 900  # every character is a word of its own
    assert least_size(CJK) == least
    encoder = untrained()
    with pytest.warns(UserWarning, match=rf"unknown.*vocab_size to {least}") as warned:
        encoder.prepare_captions(CJK, training=True)
    counts = Counter("".join(CJK))
    kept = sorted(counts, key=lambda one: (-counts[one], one))[: 512 - len(SPECIAL)]
    mean = sum(one not in kept for one in "".join(CJK)) / (10 * len(CJK))
    assert mean > 0.3
    assert encoder.unknown_shares(CJK) == pytest.approx(
        [sum(one not in kept for one in caption) / 10 for caption in CJK]
    )
    assert f"{mean:.0%} of" in str(warned[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        untrained(least).prepare_captions(CJK, training=True)


def test_few_unknown_words_pass_and_a_caption_of_nothing_else_never_does() -> None:
    encoder = scratch(["abc"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.prepare_captions(["abc abc abc"] * 30 + ["abc xyz"], training=False)
        encoder.prepare_captions(["", ""], training=False)
    with pytest.warns(UserWarning, match="1 consist of nothing else.*xyz|xyz.*1 consist"):
        encoder.prepare_captions(["abc"] * 99 + ["xyz"], training=False)
    with pytest.warns(UserWarning, match=r"25% of the words of 2 "):
        encoder.prepare_captions(["abc abc", "abc xyz"], training=False)


def test_an_audit_counts_by_the_vocabulary_that_the_training_captions_give() -> None:
    count = share_counter("scratch")
    assert count(["abc"], ["abc", "xyz"], 512) == [0, 1]
    assert count(["abc"], ["abc"], len(SPECIAL) + 1) == [1], "one letter of three"


def test_a_set_without_training_rows_is_counted_by_a_vocabulary_of_its_own_captions() -> None:
    row = Record(image=Path("a.png"), mask=None, text="abc xyz", case="a", case_id="", row=0)
    facts, findings = unknown_words({"test": [row]}, share_counter("scratch"), 512)
    assert facts == {"share of unknown words": {"test": 0.0}}
    assert findings == []
    train = replace(row, text="uvw")
    facts, findings = unknown_words(
        {"train": [train], "test": [row]}, share_counter("scratch"), 512
    )
    assert facts == {"share of unknown words": {"train": 0.0, "test": 1.0}}
    assert [finding.kind for finding in findings] == ["unknown words"] * 2


@pytest.mark.parametrize("size", [0, 5])
def test_a_vocabulary_without_room_for_a_letter_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"vocab_size={size}"):
        untrained(size)


def test_a_network_takes_the_size_of_its_vocabulary() -> None:
    network = tiny("LSMS", ["abc"], vocab_size=40)
    assert network.text_encoder.model.config.vocab_size == 40
    assert network.hparams["vocab_size"] == 40
