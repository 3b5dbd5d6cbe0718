"""Words that a text encoder does not know: their share by split, and captions of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from datamodules.audit.findings import Finding, finding
from datamodules.records import Splits
from textseg.batch import UNKNOWN_BOUND

UnknownShares = Callable[[Sequence[str], Sequence[str], int], Sequence[float]]
"""Of training captions, captions and the size of a vocabulary: each caption's share of [UNK]."""


def unknown_words(
    rows: Splits, unknown_shares: UnknownShares, vocab_size: int
) -> tuple[dict[str, object], list[Finding]]:
    """Measure each split's mean share of unknown tokens, of the captions that have words.

    A set that is not trained on gives a vocabulary of all its captions.

    Returns:
        the facts, and a finding for each split above the bound and each row of nothing else.
    """
    training = [record.text for record in rows.get("train") or chain(*rows.values())]
    shares: dict[str, object] = {}
    findings = []
    for split, records in rows.items():
        worded = [record for record in records if record.text.strip()]
        if not worded:
            continue
        own = unknown_shares(training, [record.text for record in worded], vocab_size)
        mean = sum(own) / len(own)
        shares[split] = mean
        if mean > UNKNOWN_BOUND:
            detail = f"{mean:.0%} of the words of {len(worded)} captions are [UNK]"
            findings.append(finding("unknown words", split, split, detail))
        findings += [
            finding("unknown words", split, record.case, f"no word is known: {record.text}")
            for record, share in zip(worded, own, strict=True)
            if share == 1
        ]
    return {"share of unknown words": shares}, findings
