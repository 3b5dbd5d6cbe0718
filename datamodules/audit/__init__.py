"""All that is wrong with a dataset on disk, in one pass over the files.

`findings.KINDS` lists what is checked, how serious it is, and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tqdm import tqdm

from datamodules.audit.files import FileChecks
from datamodules.audit.findings import (
    KINDS,
    Audit,
    Finding,
    finding,
    format_audit,
    in_order,
    write_audit,
)
from datamodules.audit.rows import leaks, read_all, refusal, repetitions
from datamodules.audit.unknown_words import UnknownShares, unknown_words
from datamodules.audit.words import CaptionChecks
from datamodules.base import TextSegDataModule
from datamodules.captions.modes import key
from datamodules.files.manifest import PREDICT
from datamodules.records import Splits
from textseg.errors import UserError
from textseg.preprocess import checked_size
from textseg.tables import SPLITS

__all__ = ["KINDS", "Audit", "Finding", "UnknownShares", "audit", "format_audit", "write_audit"]


def audit(
    datamodule: TextSegDataModule,
    *,
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int = 32,
    unknown_shares: UnknownShares | None = None,
    vocab_size: int = 512,
) -> Audit:
    """Read every row, picture and mask, and report everything that is wrong, not the first fault.

    Captions are audited as they stand in the files, whatever `caption_mode` is. Each picture and
    each mask is opened once.

    Args:
        datamodule: the dataset, with its split, on_missing, image_size and resize.
        count_tokens: the tokens of a caption, special ones included; None leaves this check out.
        max_tokens: captions with more are reported.
        unknown_shares: the share of unknown tokens of each caption; None leaves this check out.
        vocab_size: of a vocabulary that is learned from the training captions.

    Raises:
        UserError: root is unset or no folder, or image_size cannot be used.
    """
    root = datamodule.folder()
    rows, findings = read_all(datamodule, root)
    template = datamodule.caption_template
    files = FileChecks(
        root,
        network=checked_size(datamodule.image_size),
        resize=datamodule.resize,
        missing="error" if datamodule.on_missing == "error" else "warning",
        count_components=template is not None,
        mask_values=datamodule.mask_values,
    )
    words = CaptionChecks(
        template,
        count_tokens=count_tokens,
        max_tokens=max_tokens,
        normalized=datamodule.normalize_captions,
        language=datamodule.language,
    )
    listed = [(split, record) for split, records in rows.items() for record in records]
    for split, record in tqdm(listed, "audit", delay=2, unit="row"):
        # Rows for prediction need no mask, and may not have one.
        words.read(record, split, files.inspect(record, split, scored=split != PREDICT))
    published = datamodule.published_splits.get(datamodule.split, ())
    files.compare(published=published)
    files.judge(rows, scored=[split for split in rows if split != PREDICT])
    unlisted, refused = _all_images(datamodule, root)
    if rows:
        files.unlisted_files(unlisted)
        empty = [split for split in SPLITS if not rows.get(split)]
        findings += [finding("empty split", split, split, "no rows") for split in empty]
    findings += refused if not findings else []
    findings += leaks(rows, files, published=published) + repetitions(rows, files)
    findings += files.findings + words.finished()
    facts = {**_facts(datamodule, rows, files), **words.facts()}
    if rows:
        facts |= datamodule.audit_facts(root)
    if unknown_shares is not None and any(rows.values()):
        shares, unknown = unknown_words(rows, unknown_shares, vocab_size)
        facts |= shares
        findings += unknown
    return Audit(in_order(findings), facts)


def _all_images(datamodule: TextSegDataModule, root: Path) -> tuple[list[Path], list[Finding]]:
    try:
        return list(datamodule.all_images(root)), []
    except UserError as error:
        return [], [refusal(error, root)]


def _facts(datamodule: TextSegDataModule, rows: Splits, files: FileChecks) -> dict[str, object]:
    """Counts and shares; of what could be read."""
    keys = {split: [key(record.text) for record in records] for split, records in rows.items()}
    filled = {split: part for split, part in keys.items() if part}
    images = [facts for facts in files.images.values() if facts is not None]
    masks = [facts for facts in files.masks.values() if facts is not None]
    sizes = Counter(f"{facts.size[0]}x{facts.size[1]} {facts.mode}" for facts in images)
    facts: dict[str, object] = {
        "rows": {split: len(part) for split, part in filled.items()},
        "cases": {
            split: len({record.case_id for record in records} - {""})
            for split, records in rows.items()
            if records
        },
        "rows without a case": sum(not r.case_id for part in rows.values() for r in part),
        "images read": len(images),
        "masks read": len(masks),
        "image sizes": dict(sizes.most_common(5)),
        "distinct captions": {split: len(set(part)) for split, part in filled.items()},
    }
    if filled.get("test") and filled.get("train"):
        known = set(filled["train"])
        share = sum(caption in known for caption in filled["test"]) / len(filled["test"])
        facts["share of test captions that occur in train"] = share
    if masks:
        facts["share of masks that are empty"] = sum(not m.area for m in masks) / len(masks)
        areas = [m.area / (m.size[0] * m.size[1]) for m in masks if m.area]
        if areas:
            facts["median foreground of the others"] = median(areas)
        facts["masks with values but 0 and 255"] = sum(bool(m.other_values) for m in masks)
    if datamodule.mask_source:
        facts["masks are"] = datamodule.mask_source
    return facts
