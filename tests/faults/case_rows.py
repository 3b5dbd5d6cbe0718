"""A row of cases.csv, whose scores agree with its areas."""

from __future__ import annotations

from textseg.metrics.scores import dice_from_counts
from textseg.runs.cases import CaseRow


def case_row(number: int, caption: str, case_id: str = "") -> CaseRow:
    return CaseRow(
        case=f"c{number}",
        case_id=case_id,
        patient=case_id or f"c{number}",
        caption=caption,
        dice=float(dice_from_counts(2, 4, 3)),
        iou=0.4,
        intersection=2,
        predicted=4,
        true=3,
        pixels=100,
        hd95=None,
        nsd=None,
        diagonal=None,
        surface_unit="",
        lesion_size="small",
        lesion_number=1,
        lesions_predicted=1,
        lesions_matched=1,
        lesions_matched_half=1,
        lesion_side="left",
        truth="outlines",
        strata={"scanner": caption},
    )
