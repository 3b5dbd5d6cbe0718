"""Where the best network fails: its worst test images, and what they have in common.

Numbers and rows of the caption table alone, never a picture or a caption of a patient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

from campaign.cells import table, test_of
from campaign.headings import Parts
from campaign.settings import IMAGE_ONLY, TESTS, Campaign, Row
from datamodules.captions.absent import sides_said
from textseg.preprocess import telling_word
from textseg.runs.cases import CaseRow, read_cases

WORST = 20  # and no more than a tenth of the images
TRUE, EMPTY = "true", "empty"  # captions of a test


class Compared(NamedTuple):
    """A test image of the best network beside what others make of it, by the name of each."""

    case: CaseRow
    others: Mapping[str, float]  # dice

    @property
    def words(self) -> int:
        """Of its caption."""
        return len(re.findall(r"\w+", self.case.caption))

    @property
    def side_said(self) -> str:
        """The side that its caption names; empty where it names none."""
        named = sides_said(self.case.caption)
        return "both" if len(named) > 1 else "".join(named)

    @property
    def contradicts(self) -> bool:
        """Whether its caption names another side than the mask shows."""
        return bool(self.case.true and self.side_said) and self.side_said != self.case.lesion_side

    @property
    def lesion(self) -> float:
        """Share of the image."""
        return self.case.true / self.case.pixels

    @property
    def outlined(self) -> float:
        """Share of the image."""
        return self.case.predicted / self.case.pixels


Fact = Callable[[Sequence[Compared]], str]
"""A number of some images, as the cell of a table."""


def failures(campaign: Campaign, rows: Sequence[Row]) -> Parts:
    """The part on the worst cases of the best network; nothing before it is tested."""
    best = best_row(campaign, rows)
    cases = cases_of(campaign, best, TRUE) if best else {}
    if best is None or not cases:
        return {}
    changed = [name for name in campaign.tests if name != TRUE]
    others = {f"dice, {name}": cases_of(campaign, best, name) for name in changed}
    others |= {f"dice, {title}": own for title, own in without_words(campaign, rows).items()}
    others = {name: own for name, own in others.items() if own}
    compared = []
    for name, case in sorted(cases.items(), key=lambda entry: (entry[1].dice, entry[0])):
        scores = {of: own[name].dice for of, own in others.items() if name in own}
        compared.append(Compared(case, scores))
    count = min(WORST, len(compared) // 10) or 1
    worst, rest = compared[:count], compared[count:]
    title = campaign.title_of(best)
    head = f"The {count} worst test images of {title}"
    lead = f"By val/dice {title} is the best network that reads words. row: of the caption table, "
    lead += (
        "from 0; lesion and outlined: share of the image; side: of the mask, and as the caption "
    )
    lead += (
        "has it. They were picked by this test's dice: that they do better in other tests is in "
    )
    lead += "part that choice."
    lines = [
        *(lead, "", *case_table(worst, list(others)), ""),
        *("What they have in common, beside all others:", "", *common_table(worst, rest)),
    ]
    return {head: lines + common_word(worst, rest)}


def best_row(campaign: Campaign, rows: Sequence[Row]) -> Row | None:
    """The first row of the network with the best val/dice, of those that are tested."""
    tested = [row for row in campaign.candidates() if test_of(campaign, row, TRUE) is not None]
    found = campaign.val_dice([row for row in tested if row in rows])
    best = max(found, key=lambda network: found[network], default=None)
    return next((row for row in tested if row.network == best), None)


def cases_of(campaign: Campaign, row: Row, name: str) -> dict[str, CaseRow]:
    """The cases of a finished test by their names; none where it was not run."""
    run = campaign.run_folder(row)
    file = run / "test" / TESTS[name] / "cases.csv" if run else None
    if file is None or not file.is_file() or test_of(campaign, row, name) is None:
        return {}
    return {case.case: case for case in read_cases(file)}


def without_words(campaign: Campaign, rows: Sequence[Row]) -> dict[str, dict[str, CaseRow]]:
    """The cases of the first row of each image-only network, and of the best without its words."""
    found: dict[str, dict[str, CaseRow]] = {}
    for row in rows:
        of_images = row.network in IMAGE_ONLY or not (row.words or row.ablation)
        if of_images and row.seed == 1 and row.image_size is None:
            found[campaign.title_of(row)] = cases_of(campaign, row, campaign.tests_of(row)[0])
    return found


def case_table(worst: Sequence[Compared], others: Sequence[str]) -> list[str]:
    """A line for each of the worst."""
    head = ["row", "dice", "lesion", "outlined", "lesions", "side", "side said"]
    head += ["words in the caption", *others]
    out = []
    for one in worst:
        case = one.case
        cells = [case.case.rpartition("__")[2], f"{case.dice:.3f}"]
        cells += [f"{share:.2%}" for share in (one.lesion, one.outlined)]
        cells += [str(case.lesion_number), case.lesion_side]
        cells += [one.side_said, str(one.words)]
        out.append(cells + [f"{one.others[n]:.3f}" if n in one.others else "" for n in others])
    return table(head, out)


def common_table(worst: Sequence[Compared], rest: Sequence[Compared]) -> list[str]:
    """The worst beside the rest: their lesions, captions and other networks' dice."""
    with_lesion = "of those with a lesion"
    facts: dict[str, Fact] = {
        "dice, mean": lambda cases: _mean([one.case.dice for one in cases], ".3f"),
        "without a lesion": lambda cases: _share(cases, lambda one: not one.case.true),
        "nothing outlined": lambda cases: _share(cases, lambda one: not one.case.predicted),
        f"lesion, median {with_lesion}": lambda cases: _median(
            [one.lesion for one in cases if one.case.true], ".2%"
        ),
        f"outlined area over true, median {with_lesion}": lambda cases: _median(
            [one.case.predicted / one.case.true for one in cases if one.case.true], ".2f"
        ),
        "lesion in the smallest third": lambda cases: _share(
            cases, lambda one: one.case.lesion_size == "small"
        ),
        "lesions, mean": lambda cases: _mean([one.case.lesion_number for one in cases], ".2f"),
        "lesions on both sides": lambda cases: _share(
            cases, lambda one: one.case.lesion_side == "both"
        ),
        "caption names another side than the mask shows": lambda cases: (
            f"{sum(one.contradicts for one in cases)} of {len(cases)}"
        ),
        "words in the caption, mean": lambda cases: _mean([one.words for one in cases], ".1f"),
    }
    names = list(dict.fromkeys(name for one in [*worst, *rest] for name in one.others))
    facts |= {f"{name}, mean": _mean_of(name) for name in names}
    if f"dice, {EMPTY}" in names:
        facts["dice less that with empty captions, mean"] = _worth_of_words
    head = ["", f"{len(worst)} worst", f"{len(rest)} others"]
    return table(head, [[name, fact(worst), fact(rest)] for name, fact in facts.items()])


def common_word(worst: Sequence[Compared], rest: Sequence[Compared]) -> list[str]:
    """The word whose share of captions differs most between the worst and the rest."""
    captions = [one.case.caption for one in [*worst, *rest]]
    found = telling_word(captions, [0] * len(worst) + [1] * len(rest))
    if found is None:
        return []
    word = f"The word {found.word!r}" if found.word else "No word at all"
    shares = f"{found.without:.0%} of the captions of the worst and in {found.with_lesion:.0%}"
    return ["", f"{word} is in {shares} of the others: of all words the largest difference."]


def _mean_of(name: str) -> Fact:
    """The mean dice of another test on the same images."""
    return lambda cases: _mean([one.others[name] for one in cases if name in one.others], ".3f")


def _worth_of_words(cases: Sequence[Compared]) -> str:
    name = f"dice, {EMPTY}"
    return _mean([one.case.dice - one.others[name] for one in cases if name in one.others], "+.3f")


def _share(cases: Sequence[Compared], holds: Callable[[Compared], bool]) -> str:
    return f"{fmean([bool(holds(one)) for one in cases]):.0%}" if cases else ""


def _mean(values: Sequence[float], form: str) -> str:
    return f"{fmean(values):{form}}" if values else ""


def _median(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}}" if values else ""
