"""Runs compared: what is joined, what is computed, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compare.quick import CASES, quality, quick
from tests.run_folder import case_row, time_stamp, write_run, write_test
from textseg.compare import Comparison, compare, plain_table
from textseg.compare.results import THESE_TWO, TRAININGS
from textseg.errors import UserError
from textseg.metrics.scores import SCORES
from textseg.metrics.summary import score_intervals
from textseg.runs import read_cases, table_rows


def refusal(runs: Sequence[str], **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        quick(runs, **settings)
    cause, _, remedy = str(caught.value).partition("\n")
    assert remedy, "an error says what to do"
    return cause


def scores(comparison: Comparison, method: str) -> dict[str, float]:
    (found,) = (one for one in comparison.methods if one.name == method)
    return {name: score.value for name, score in found.scores.items()}


# --- what is computed --------------------------------------------------------------------------


def test_scores_and_differences_are_those_of_the_files(pair: list[str]) -> None:
    result = quick(pair)
    tables = [
        np.array([[round((100 + 40 * i) * q), 100 + 40 * i] for i, q in enumerate(quality(m, s))])
        for s, m in ((0, 0.6), (1, 0.8))
    ]
    dice = [(table[:, 0] / table[:, 1]) for table in tables]
    pooled = [table[:, 0].sum() / table[:, 1].sum() for table in tables]
    assert [m.name for m in result.methods] == ["unet", "lsms"], "named by experiment"
    assert scores(result, "unet")["dice"] == pytest.approx(dice[0].mean())
    assert scores(result, "lsms")["miou"] == pytest.approx((dice[1] / (2 - dice[1])).mean())
    assert scores(result, "lsms")["dice_global"] == pytest.approx(pooled[1])
    by_score = {one.score: one for one in result.differences}
    assert by_score["dice"].value == pytest.approx(dice[1].mean() - dice[0].mean())
    assert by_score["dice_global"].value == pytest.approx(pooled[1] - pooled[0])
    main = [by_score[name] for name in ("dice", "miou", "dice_global", "iou_global")]
    assert all(0 < d.low < d.value < d.high for d in main)
    assert by_score["dice"].p < 0.05
    assert np.isnan([d.p for d in result.differences if d.score != "dice"]).all()
    assert by_score["dice"].p_is_of == THESE_TWO
    assert THESE_TWO in plain_table(result)
    assert result.patients == CASES // 2
    assert result.case_dice == pytest.approx(np.stack(dice))


def test_cases_are_joined_by_name_and_not_by_their_order(pair: list[str]) -> None:
    path = Path(pair[1]) / "test" / "true" / "cases.csv"
    before = quick(pair)
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(rows)]) + "\n")
    after = quick(pair)
    assert np.array_equal(after.case_dice, before.case_dice)
    assert plain_table(after) == plain_table(before)


def test_the_baseline_may_be_named_by_method_or_by_run(pair: list[str]) -> None:
    first = quick(pair)
    for baseline in ("lsms", pair[1]):
        turned = quick(pair, baseline=baseline)
        assert turned.baseline == "lsms"
        assert [m.name for m in turned.methods] == ["lsms", "unet"]
        assert turned.differences[0].value == pytest.approx(-first.differences[0].value)
    assert "'nothing'" in refusal(pair, baseline="nothing")


def test_p_values_are_corrected_for_the_number_of_methods(tmp_path: Path, pair: list[str]) -> None:
    more = [str(write_run(tmp_path / f"other{n}", quality(0.62, 30 + n), lr=n)) for n in range(2)]
    result = quick([*pair, *more])
    rows = sorted((d for d in result.differences if d.score == "dice"), key=lambda d: d.p)
    assert rows[0].method == "lsms"
    adjusted = np.maximum.accumulate(
        [min(1.0, d.p * k) for d, k in zip(rows, (3, 2, 1), strict=True)]
    )
    assert [d.p_holm for d in rows] == pytest.approx(adjusted.tolist())


def test_no_endpoint_is_refused_and_not_taken_for_the_default(pair: list[str]) -> None:
    with pytest.raises(UserError, match="endpoints"):
        quick(pair, endpoints=[])


def test_all_endpoints_that_are_asked_for_are_corrected_together(
    tmp_path: Path, pair: list[str]
) -> None:
    more = str(write_run(tmp_path / "other", quality(0.64, 30)))
    found = quick([*pair, more], endpoints=["miou", "dice_global"])
    tested = [d for d in found.differences if not np.isnan(d.p)]
    assert {(d.method, d.score) for d in tested} == {
        (method, score) for method in ("lsms", "other") for score in ("miou", "dice_global")
    }
    smallest = min(tested, key=lambda d: d.p)
    assert smallest.p_holm == pytest.approx(4 * smallest.p)
    assert "'nsd_2'" in refusal(pair, endpoints=["nsd_2"])
    assert "'dice' twice" in refusal(pair, endpoints=["dice", "miou", "dice"])


def test_p_of_seeds_is_below_a_twentieth_where_the_interval_leaves_out_zero(
    tmp_path: Path, pair: list[str]
) -> None:
    for mean, seed in ((0.62, 11), (0.8, 12)):
        again = str(write_run(tmp_path / f"lsms_{seed}" / "x", quality(mean, seed), seed=2))
        found = quick([*pair, again], names=["unet", "lsms", "lsms"], endpoints=["dice", "miou"])
        for one in (d for d in found.differences if not np.isnan(d.p)):
            assert one.p_is_of == TRAININGS
            assert (one.p < 0.05) == (one.low > 0 or one.high < 0)


def test_a_test_and_a_comparison_give_one_interval_for_one_number(pair: list[str]) -> None:
    found = compare(pair).methods[1]
    cases = read_cases(Path(pair[1]) / "test" / "true" / "cases.csv")
    names = [name for name in SCORES if name in found.scores]
    assert "dice_patient" in names
    ends_of = score_intervals(table_rows(cases), [c.case_id for c in cases], names=names)
    for name, ends in ends_of.items():
        assert (found.scores[name].low, found.scores[name].high) == pytest.approx(
            ends, abs=1e-12, nan_ok=True
        )


def test_equal_seeds_give_equal_numbers(pair: list[str]) -> None:
    assert plain_table(quick(pair, seed=4)) == plain_table(quick(pair, seed=4))
    assert quick(pair, seed=4).differences[0].low != quick(pair, seed=5).differences[0].low


def test_runs_that_differ_in_their_seed_are_one_method(tmp_path: Path, pair: list[str]) -> None:
    again = write_run(tmp_path / "lsms" / time_stamp(2), quality(0.7, 9), seed=2)
    result = quick([*pair, str(again)])
    assert [(m.name, len(m.runs)) for m in result.methods] == [("unet", 1), ("lsms", 2)]
    single = [
        quick([pair[0], run]).methods[1].scores["dice"].value for run in (pair[1], str(again))
    ]
    score = result.methods[1].scores["dice"]
    assert score.value == pytest.approx(np.mean(single))
    assert score.std == pytest.approx(np.std(single, ddof=1))
    assert np.isnan(result.methods[0].scores["dice"].std)
    assert "±" in plain_table(result)
    alone = quick([pair[0], pair[1]]).methods[1].scores["dice"]
    assert score.high - score.low > alone.high - alone.low, "the seeds are uncertain too"


def test_caption_modes_of_one_run_are_compared_by_their_folders(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lsms" / time_stamp(1), quality(0.8))
    write_run(run, quality(0.5, 1), test="test/empty", text="")
    result = quick([str(run), str(run / "test" / "empty")])
    assert [m.name for m in result.methods] == ["lsms", "lsms (empty captions)"]
    assert result.captions == ("true", "empty")
    assert result.differences[0].value < -0.2


def test_results_on_other_data_are_found_by_its_name(tmp_path: Path) -> None:
    runs = []
    for name, mean in (("a", 0.5), ("b", 0.7)):
        run = write_run(tmp_path / name, quality(mean))
        runs.append(str(write_run(run, quality(mean + 0.2), test="test_on_mosmed/true")))
    own, other = quick(runs), quick(runs, data="mosmed")
    assert scores(other, "a")["dice"] - scores(own, "a")["dice"] == pytest.approx(0.2, abs=0.03)
    assert plain_table(quick(runs, data="test_on_mosmed")) == plain_table(other)
    assert "test_on_mosmed/true" in refusal(runs, data="nowhere"), "what there is is named"


def test_strata_equal_a_comparison_of_their_cases_alone(tmp_path: Path, pair: list[str]) -> None:
    again = write_run(tmp_path / "lsms" / time_stamp(2), quality(0.7, 9), seed=2)
    result = quick([*pair, str(again)])
    classes = {(one.grouping, one.name): one for one in result.strata if one.method == "lsms"}
    assert list(classes) == [
        *[("size", "small"), ("size", "medium"), ("size", "large")],
        *[("number", "1"), ("number", "2"), ("number", "3+")],
        *[("side", "left"), ("side", "right")],
    ]
    for grouping in ("size", "number", "side"):
        assert sum(one.cases for key, one in classes.items() if key[0] == grouping) == CASES
    small, left = classes["size", "small"], classes["side", "left"]
    assert (small.cases, small.patients) == (8, 4)
    assert (left.cases, left.patients) == (12, 12), "each patient has a case of either side"
    assert left.dice == pytest.approx(result.case_dice[1, ::2].mean())
    gap = result.case_dice[1, ::2].mean() - result.case_dice[0, ::2].mean()
    assert left.difference == pytest.approx(gap)
    alone = []
    for run, mean, seed in ((pair[0], 0.6, 0), (pair[1], 0.8, 1), (again, 0.7, 9)):
        overlaps = quality(mean, seed)
        rows = {n: asdict(case_row(2 * n, overlaps[2 * n], CASES)) for n in range(12)}
        name = Path(run).parent.name
        folder = tmp_path / "left" / name / time_stamp(seed % 5 + 1)
        alone.append(str(write_run(folder, quality(0.5, cases=12), seed=seed, changes=rows)))
    whole = next(one for one in quick(alone).differences if one.score == "dice")
    assert (left.low, left.high) == pytest.approx((whole.low, whole.high))
    baseline = next(one for one in result.strata if one.method == "unet")
    assert np.isnan([baseline.difference, baseline.low, baseline.high]).all()
    assert "small" in plain_table(result)


def test_two_seeds_are_warned_of_and_three_are_not(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / f"r{s}", quality(0.5, s), seed=s)) for s in range(6)]
    text = " | ".join(quick(runs[:5], names=["x", "x", "y", "y", "y"]).warnings)
    assert "two seeds of x:" in text
    assert "seeds of" not in " | ".join(quick(runs, names=["x", "y"] * 3).warnings)


# --- what a reader must know -------------------------------------------------------------------


def test_few_patients_are_warned_of_and_twenty_are_not(tmp_path: Path, pair: list[str]) -> None:
    assert any("12 patients" in text for text in quick(pair).warnings)
    runs = [str(write_run(tmp_path / n, quality(0.5, cases=40))) for n in ("many_a", "many_b")]
    assert not any("patients" in text for text in quick(runs).warnings)


def test_unknown_patients_single_seeds_and_boxes_are_warned_of(tmp_path: Path) -> None:
    plain = {
        number: {"case_id": "", "patient": f"c__{number}", "truth": "boxes"}
        for number in range(CASES)
    }
    runs = [str(write_run(tmp_path / n, quality(0.5), changes=plain)) for n in "ab"]
    text = " | ".join(quick(runs).warnings)
    assert "patient" in text
    assert "one training of a, b" in text
    assert "boxes" in text
    assert quick(runs).patients == CASES, "images where no patient is known"


def test_captions_that_give_emptiness_away_are_warned_of(tmp_path: Path) -> None:
    blank = {"true": 0, "predicted": 0, "intersection": 0, "lesion_number": 0}
    blank |= {"dice": 1.0, "iou": 1.0, "lesion_size": "none", "lesion_side": "none"}
    empty = {number: blank | {"caption": "no focal lesion"} for number in range(12)}
    runs = [str(write_run(tmp_path / name, quality(0.5), changes=empty)) for name in "ab"]
    found = quick(runs)
    assert any("'focal' is in 100%" in text for text in found.warnings)
    assert scores(found, "a")["dice_with_lesion"] < scores(found, "a")["dice"]
    assert scores(found, "a")["false_alarm_rate"] == 0


def test_one_patient_has_scores_but_no_interval(tmp_path: Path) -> None:
    one = {number: {"case_id": "p", "patient": "p"} for number in range(CASES)}
    runs = [str(write_run(tmp_path / n, quality(0.5, s), changes=one)) for s, n in enumerate("ab")]
    result = quick(runs)
    assert np.isnan([result.methods[0].scores["dice"].low, result.differences[0].low]).all()
    assert "nan" not in plain_table(result)


def test_a_second_test_of_a_checkpoint_is_pointed_out(pair: list[str]) -> None:
    (Path(pair[0]) / "test" / "true_2").mkdir()
    assert any("true_2" in text for text in quick(pair).warnings)


def test_strata_of_the_users_own_are_scored_where_every_test_has_them(
    tmp_path: Path, pair: list[str]
) -> None:
    own = {n: {"strata": {"scanner": "AB"[n % 3 == 0]}} for n in range(CASES)}
    runs = [
        str(write_run(tmp_path / n, quality(m), changes=own)) for n, m in (("a", 0.5), ("b", 0.7))
    ]
    found = quick(runs)
    classes = [one for one in found.strata if one.grouping == "scanner"]
    assert [(one.name, one.method, one.cases) for one in classes] == [
        *[("A", "a", 16), ("A", "b", 16)],
        *[("B", "a", 8), ("B", "b", 8)],
    ]
    chosen = [n % 3 == 0 for n in range(CASES)]
    assert classes[3].dice == pytest.approx(found.case_dice[1, chosen].mean())
    assert "by scanner" in plain_table(found)
    partly = quick([*runs, pair[0]])
    assert {one.grouping for one in partly.strata} == {"size", "number", "side"}
    assert any("scanner" in text for text in partly.warnings)
    other = {n: {"strata": {"scanner": "A"}} for n in range(CASES)}
    odd = str(write_run(tmp_path / "c", quality(0.5), changes=other))
    assert "'scanner' differ in 8 of 24" in refusal([runs[0], odd])


def test_the_use_of_the_words_is_that_of_the_same_runs(tmp_path: Path, pair: list[str]) -> None:
    again = str(write_run(tmp_path / "lsms" / time_stamp(2), quality(0.7, 9), seed=2))
    runs = [*pair, again]
    assert quick(runs).words == ()
    for run, mean in ((pair[1], 0.5), (again, 0.45)):
        write_test(Path(run) / "test" / "shuffled", quality(mean, 4))
    (found,) = quick(runs).words
    assert (found.method, found.captions) == ("lsms", "shuffled")
    dice = {
        mode: [
            [case.dice for case in read_cases(Path(run) / "test" / mode / "cases.csv")]
            for run in (pair[1], again)
        ]
        for mode in ("true", "shuffled")
    }
    assert found.dice == pytest.approx(np.mean(dice["shuffled"]))
    assert found.gain == pytest.approx(np.mean(dice["true"]) - np.mean(dice["shuffled"]))
    assert found.low < found.gain < found.high
    assert "Use of the words" in plain_table(quick(runs))


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({3: {"case": "other__3"}}, ["c__3", "other__3"]),
        (
            {3: {"true": 999, "dice": 0}, 4: {"true": 998, "dice": 0}},
            ["2 of 24", "c__3", "220", "999"],
        ),
        ({5: {"case_id": "p9", "patient": "p9"}}, ["patients", "1 of 24", "'p2'", "'p9'"]),
        ({5: {"caption": "right lung"}}, ["captions", "'left lung'", "'right lung'"]),
        ({5: {"pixels": 8999}}, ["images", "9000", "8999"]),
        ({5: {"lesion_side": "both"}}, ["lesions", "'right'", "'both'"]),
        ({5: {"truth": "boxes"}}, ["truth", "'boxes'"]),
    ],
)
def test_runs_over_other_cases_or_truths_are_refused(
    tmp_path: Path, pair: list[str], changes: dict[int, dict[str, str]], named: list[str]
) -> None:
    overlaps = [0.0 if "dice" in changes.get(n, {}) else q for n, q in enumerate(quality(0.5))]
    other = write_run(tmp_path / "other", overlaps, changes=changes)
    message = refusal([*pair, str(other)])
    assert str(other) in message
    assert [part for part in named if part not in message] == []


def test_captions_may_differ_between_caption_modes_but_not_within_one(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, quality(0.5)) for name in "ab"]
    for run, text in zip(runs, ("x", "y"), strict=True):
        write_run(run, quality(0.4), test="test/shuffled", text=text)
    quick([str(runs[0]), str(runs[1] / "test" / "shuffled")])
    assert "captions" in refusal([str(run) for run in runs], captions="shuffled")


def test_other_protocols_are_refused(tmp_path: Path, pair: list[str]) -> None:
    other = write_run(tmp_path / "other", quality(0.5), protocol="lvit")
    assert "'lvit'" in refusal([*pair, str(other)])
    unknown = write_run(tmp_path / "unknown", quality(0.5), protocol="mine")
    assert "'mine'" in refusal([*pair, str(unknown)])


def test_runs_of_one_name_that_are_not_seeds_of_one_method_are_refused(
    tmp_path: Path, pair: list[str]
) -> None:
    same = write_run(tmp_path / "lsms" / time_stamp(2), quality(0.7, 2))
    assert "seed_everything 1" in refusal([*pair, str(same)])
    other = write_run(tmp_path / "lsms" / time_stamp(3), quality(0.7, 2), seed=3, lr=9)
    assert "model.lr: 0.1 and 9" in refusal([*pair, str(other)])
    (same / "config.yaml").unlink()
    assert "config.yaml" in refusal([*pair, str(same)])
    named = quick([*pair, str(same)], names=["u", "one", "two"])
    assert [m.name for m in named.methods] == ["u", "one", "two"]


def test_names_make_seeds_of_runs_in_folders_of_any_name(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / n, quality(0.5, s), seed=s)) for s, n in enumerate("abcd")]
    result = quick(runs, names=["x", "x", "y", "y"])
    assert [(m.name, len(m.runs)) for m in result.methods] == [("x", 2), ("y", 2)]
    assert not any("one seed" in text for text in result.warnings)


def test_wrong_arguments_are_refused(tmp_path: Path, pair: list[str]) -> None:
    assert "runs=" in refusal(pair[:1])
    assert pair[0] in refusal([pair[0], pair[0]])
    assert "names gives 1" in refusal(pair, names=["a"])
    assert "names=['a', ' ']" in refusal(pair, names=["a", " "])
    assert "seed=-1" in refusal(pair, seed=-1)
    assert "resamples=3" in refusal(pair, resamples=3)
    assert "test/true" in refusal(pair, captions="empty"), "what there is is named"
    assert str(tmp_path / "nowhere") in refusal([pair[0], str(tmp_path / "nowhere")])
