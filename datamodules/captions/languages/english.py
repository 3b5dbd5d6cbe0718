"""English: left and right, clock positions, and words that only look like a side."""

from __future__ import annotations

import re
from functools import lru_cache

from datamodules.captions.languages.words import (
    Language,
    in_case_of,
    within_one_edit,
    word_set,
)

_SIDES = ("left", "right")
_ENDINGS = ("", "most", "ward", "wards", "hand", "handed", "side", "sided")
_MIRROR = {
    f"{a}{ending}": f"{b}{ending}"
    for ending in _ENDINGS
    for a, b in (("left", "right"), ("right", "left"))
}
# English words that hold "right", or are one letter away from a side word, yet name no side.
_PLAIN = re.compile(
    "bright(er|est|ly|ness|en|ened)?|uprights?|lights?|slight|eighth?|height|weight|nights?|sights?|"
    "fights?|tight|might|fright|wright|clefts?|loft|lent|lest|let|heft|deft|weft"
)
# A side written as a letter or abbreviation, such as that of a lobe or quadrant.
_SHORT_SIDE = re.compile("[lr]t?|rgt|[lr][uml][lz]|[lr][ul]q")
# The same in capitals alone: views of a breast, eyes, chambers and vessels of the heart.
_SHORT_CAPITALS = re.compile("[LR](CC|MLO|ML|A|V|VOT|K|LL|LN)|LAD|LCX|[LR]CA|O[DS]")
_LATIN = re.compile("(laevo|levo|dextro|sinistr|dextr)\\w*|sinister|dexter")
# "what is left", "all right": words of a side that name none, or may not.
_IDIOM = re.compile(
    r"\bleft[ -](over|behind|out|alone|untreated|unchanged|unclear|in place|in situ)\b|"
    r"\b(has|have|had|having|nothing|anything|little|much|what) left\b|"
    r"\b(what|that)(['\u2019]s| is| was| are) left\b|"
    r"\b(is|are|was|were|be|been|being) left(?=\s*([.;,]|$|in\b|at\b|for\b|to\b|with\b|by\b))|"
    r"\bleft the (?!lung|breast|kidney|side)|"
    r"\ball right(?=\s*([.,;!?]|$))|\bright angle[ds]?\b|\bright (away|now|here)\b|"
    r"\b(left|right) ?handed(ness)?\b|"  # of a person, whose hands no picture shows
    r"(?<!the )\bright (next|above|below|beneath|under|underneath|behind|beside|before|after|"
    r"through|across|along|adjacent|around|beyond|into|onto|inside|outside|up|down)\b",
    re.IGNORECASE,
)
# Organs whose left and right parts differ: a mirrored picture shows no true "right hepatic vein".
_ASYMMETRIC = re.compile(
    r"\b(lobes?|lobar|lobectomy|hepatic|hemilivers?|portal|ventricles?|ventricular|atrium|atria|"
    r"atrial|auricles?|hemicolon|colic|flexures?|hypochondri\w+|iliac fossa|bundle branch|"
    r"coronary|gastric|(left|right) (heart|colon|dominant (circulation|system)|to \w+ shunts?))\b",
    re.IGNORECASE,
)
_HOUR = r"(?:1[0-2]|[1-9])(?::[0-5]\d)?"
_JOINTS = re.compile("[-_\u2010\u2011]")  # heart_atrium_left, right-heart
_CLOCK = re.compile(rf"\b({_HOUR})(?:( to | ?- ?)({_HOUR}))?(?= o['\u2019]clock\b)")
_WRITTEN_CLOCK = re.compile(rf"{_CLOCK.pattern} o['\u2019]clock\b")
# What is left of a clock position when those that are plainly written are taken out.
_DOUBTFUL_CLOCK = re.compile(r"o\s?['\u2019]?\s?clock\b|\d:\d\d", re.IGNORECASE)
_LETTERS = re.compile(r"[A-Za-z]+")
# Words that are often joined to a side, as in "rihtlung".
_NEIGHBORS = ("lung", "lungs", "upper", "middle", "lower", "all", "and", "breast", "kidney")


class English(Language):
    """English has clock positions besides, and its doubts are its own."""

    def swapped(self, text: str) -> str | None:
        """Exchange left and right, and read clock positions on the mirrored face."""
        words = _LETTERS.findall(text)
        without = _WRITTEN_CLOCK.sub("", text)
        if _DOUBTFUL_CLOCK.search(without) or any(is_doubtful(word) for word in words):
            return None
        text = _CLOCK.sub(_mirrored_clock, text)
        if not any(word.lower() in _MIRROR for word in words):
            return text
        apart = _JOINTS.sub(" ", text)
        if _ASYMMETRIC.search(apart) or _IDIOM.search(apart):
            return None
        return _LETTERS.sub(lambda m: in_case_of(m[0], _MIRROR.get(m[0].lower(), m[0])), text)


def _mirrored_clock(match: re.Match[str]) -> str:
    """The ends of a span are exchanged, so that it still runs clockwise."""
    first, joint, last = match.groups()
    if last is None:
        return _mirrored_hour(first)
    return f"{_mirrored_hour(last)}{joint}{_mirrored_hour(first)}"


def _mirrored_hour(hour: str) -> str:
    hours, _, minutes = hour.partition(":")
    mirrored_hours, mirrored_minutes = divmod(-(int(hours) * 60 + int(minutes or 0)) % 720, 60)
    return f"{mirrored_hours or 12}" + (f":{mirrored_minutes:02d}" if minutes else "")


@lru_cache(maxsize=65536)
def is_doubtful(word: str) -> bool:
    """Whether a word may hide a side that an exact match does not see."""
    lower = word.lower()
    if lower in _MIRROR:
        return word not in (lower, lower.upper(), lower.capitalize())
    if _PLAIN.fullmatch(lower):
        return False
    if _SHORT_SIDE.fullmatch(lower) or "left" in lower or "right" in lower:
        return True
    if _SHORT_CAPITALS.fullmatch(word) or _LATIN.fullmatch(lower):
        return True
    parts = {f(n) for n in _NEIGHBORS for f in (lower.removeprefix, lower.removesuffix)}
    return any(within_one_edit(part, side) for part in parts for side in _SIDES)


ENGLISH = English(
    code="en",
    sides=_MIRROR,
    letters=frozenset(),
    endings=re.compile(
        "..(ing|ed|ly|ness|ious|eous|ular|tions?|sions?|ity|ities|ment|able|ible|ical|ish|less|oma|"
        "omas|itis|osis|opathy|ology|gram|graphy|scopy|ectomy|like|shaped|sized|colored|oid|ous)$"
    ),
    words=word_set(
        # grammar
        "a an the this that these those of in on at to by for from with without as and or but is",
        "are was were be been being it its there their they our we he she his her has have had do",
        "does not no none nor any all both each every either neither some several many few more",
        "most less least much other another same such than then which who whose what when where",
        "while if so can may could would should will must also only just very too quite rather",
        "about above across after along among around before behind below beneath beside between",
        "beyond down during inside into near next off onto out outside over through throughout",
        "toward towards under up upon within per via versus vs yes one two three four five six",
        "seven eight nine ten eleven twelve zero first second third fourth half single multiple",
        "double dx",
        # places and forms
        "upper lower middle mid top bottom center centre central left right side sides sided part",
        "parts portion area areas region regions zone zones location located corner edge edges end",
        "border borders margin margins boundary quadrant quadrants medial lateral anterior",
        "posterior superior inferior proximal distal inner outer deep superficial surface",
        "peripheral midline bilateral unilateral ipsilateral contralateral position direction",
        "horizontal vertical diagonal image picture scan slice view photo photograph frame field",
        "shape shapes size sizes form round oval circular elliptical ellipse square rectangular",
        "triangular triangle irregular regular flat long short wide narrow thin thick big large",
        "larger largest small smaller smallest little tiny huge medium great tall high low deepest",
        "smooth rough sharp clear unclear vague blurred blurry fuzzy hazy patchy diffuse focal",
        "spiculated lobular lobulated solid hollow cystic complex homogeneous heterogeneous even",
        "uneven dark darker bright brighter light gray grey white black red pink orange yellow",
        "green blue purple brown pale color colour colors texture pattern patterns line lines spot",
        "spots dot dots mark disc disk circle ring band strip patch patches shadow shadows echo",
        "echoes echogenic signal density dense intensity contrast enhancement hypodense hyperdense",
        "isodense hypointense hyperintense isointense hypoechoic hyperechoic isoechoic anechoic",
        "number count cluster group pair row series type kind grade stage score level degree",
        "length width height depth diameter volume percent percentage distance cell cells nucleus",
        "nuclei close far away together whole entire full empty total partial visible present",
        "absent new old early late mild moderate severe slight marked possible likely unlikely",
        "normal abnormal benign malignant healthy sick acute chronic typical primary secondary",
        "positive negative free similar different common rare o clock",
        # anatomy and findings
        "body head neck face eye eyes ear ears nose mouth tongue tooth teeth throat brain skull",
        "spine spinal chest thorax thoracic lung lungs pulmonary lobe lobes pleura pleural heart",
        "cardiac aorta aortic artery arteries vein veins vessel vessels breast breasts nipple duct",
        "ductal abdomen abdominal liver hepatic kidney kidneys renal spleen splenic pancreas colon",
        "colorectal bowel intestine stomach gastric bladder uterus ovary prostate rectum rectal",
        "pelvis pelvic bone bones rib ribs muscle fat skin tissue tissues node nodes gland glands",
        "thyroid lymph hand foot leg arm hip knee shoulder axilla axillary wall cavity base apex",
        "hilum hilar trachea airway diaphragm mediastinum optic retina retinal iris cup cornea",
        "frontal temporal parietal occipital cerebral cerebellum cerebellar tumor tumors tumour",
        "tumours mass masses lesion lesions nodule nodules cyst cysts polyp polyps cancer cancers",
        "carcinoma metastasis metastases metastatic abscess ulcer wound scar stone stones calculus",
        "infection infections infected pneumonia covid disease diseases disorder opacity opacities",
        "consolidation infiltrate infiltrates effusion edema oedema swelling thickening collapse",
        "pneumothorax emphysema fibrosis atelectasis calcification calcifications hemorrhage bleed",
        "bleeding blood fluid gas air pus thrombus embolus aneurysm stenosis fracture fractures",
        "hernia plaque plaques focus foci ground glass melanoma mole nevus glioma meningioma",
        "pituitary adenoma unifocal multifocal her luminal hormone receptor triple invasive",
        "in situ ultrasound sonography endoscopy endoscopic colonoscopy dermoscopy mri ct xray x",
        "ray rays tomography radiograph patient patients case study finding findings evidence sign",
        "signs report shows show shown see seen look looks appears appear find found note noted",
        "instrument tool polypectomy mucosa mucosal fold folds vascular lumen",
    ),
)
