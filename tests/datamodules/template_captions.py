"""Captions of LViT's template that several test files use, and a reading with sides exchanged."""

from __future__ import annotations

from datamodules.captions.lvit_template import Reading

ONE = "Unilateral pulmonary infection, one infected area"
TWO = "Unilateral pulmonary infection, two infected areas"
BOTH = "Bilateral pulmonary infection, two infected areas"
NOTHING = "No pulmonary infection, zero infected areas."
ALL = ("upper", "middle", "lower")

# What is lacking, or written where something else should be: no repair is made up for these rows.
UNREPAIRABLE = {
    f"{BOTH}, all left lung and right lung.": 13,
    f"{BOTH}, left lung and right lung.": 3,
    f"{BOTH}, lower left lung and right lung.": 2,
    f"{ONE}, left and right lung.": 1,
    f"{ONE}, right right lung.": 1,
    f"{BOTH}, right left lung and upper middle right lung.": 1,
    f"{ONE}, middle right left lung.": 1,
    f"{ONE}, all left and upper middle left right lung.": 1,
    f"{ONE}s, lower and right lung.": 1,
    "Unilateral pulmonary infection, two infected area, upper lower and right lung.": 1,
    "Bilateral pulmonary infection, three infected areas, all left lung and upper lower lung.": 1,
    "Bilateral pulmonary infection, three infected areas, lower left lung and upper lower lung.": 1,
    f"{BOTH}, all left lung and all lung.": 1,
    f"{BOTH}, all left lung and middle lower lung.": 1,
    "Bilateral pulmonary infection,two infected areas,all left and lower all lung.": 1,
    f"{BOTH}, all lung and middle lower right lung.": 1,
    f"{BOTH}, upper lower lung and all right lung.": 1,
    f"{BOTH}, upper lung and middle lower right lung.": 1,
    f"{BOTH}, all eft lung and all right lung.(wait": 1,
}


def exchanged(reading: Reading) -> Reading:
    """What a reading is with left and right exchanged."""
    other = {"left": "right", "right": "left"}
    return reading._replace(zones={other[side]: zones for side, zones in reading.zones.items()})
