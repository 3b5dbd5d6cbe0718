"""German: links and rechts, their adjectives, compounds and abbreviations (li., re.)."""

from __future__ import annotations

import re

from datamodules.captions.languages.words import Language, both_ways, word_set

_ADJECTIVES = {f"link{ending}": f"recht{ending}" for ending in ("e", "er", "en", "es", "em")}

GERMAN = Language(
    code="de",
    sides=both_ways(
        {"links": "rechts", "linkerseits": "rechterseits", "linksseits": "rechtsseits"}
        | _ADJECTIVES
    ),
    stems={"links": "rechts", "rechts": "links"},
    compounds=re.compile(
        "(links|rechts)((seit|lateral|beton|bas|apik|hilar|perihil|thorak|pulmon|zervik|zerebr|"
        "front|tempor|pariet|okzip|axill|inguin|mamm|renal|ovar|konvex|paramed|gelegen)\\w*)"
    ),
    short=both_ways({"li": "re", "lks": "rts"}),
    letters=frozenset("äöüß"),
    plain=re.compile(
        "recht|rechteck\\w*|(auf|senk|waage?|ge|un|regel|fach|zu|lot)recht\\w*|rechtwink\\w*|"
        "rechtzeitig\\w*|rechnen|linsen?|linsenformig\\w*|lini(e|en)|(s|w|bl|z|h)inken|flinke\\w*|klinker|rechen|echt\\w*"
    ),
    doubtful=re.compile(
        "(links|rechts|linker|rechter)\\w+|\\w+(links|rechts)|link|lin|lk|rech|[lr]t|sin|dext?"
    ),
    letter_sides="LRlr",
    unclear=re.compile(
        r"\brecht(er|en) winkel|\brechte und pflichten|lappens?\b|"
        r"\b\w*(vorhof|vorhofe|ventrikel|kammer|herz|koronar|pfortader|lebervene|kolon|flexur|"
        r"hemikolon|schenkelblock|leber(arterie|hilus)|magen)\w*"
    ),
    clock=re.compile(r"\b\d{1,2}([:.]\d\d)? ?uhr\b|\d:\d\d"),
    endings=re.compile(
        "..(ung|ungen|lich(e[rnsm]?)?|ig(e[rnsm]?)?|isch(e[rnsm]?)?|keit|heit|schaft|formig(e[rnsm]?)?|"
        "herd(e[sn]?)?|lappen|lunge|lungen|niere|leber|brust|feld(e[rs]?)?|raum|halfte|seite|bereich|"
        "abschnitt|segment|tumor|geschwulst|schatten|gewebe|knoten|dichte(n|r|s)?|dens(e[rnsm]?)?)$"
    ),
    words=word_set(
        "der die das den dem des ein eine einer eines einem einen kein keine keiner keinem keinen",
        "und oder aber nicht ohne mit von vom zu zum zur im in am an auf aus bei beim nach über",
        "unter unterhalb oberhalb neben zwischen vor hinter durch für gegen um bis seit als wie",
        "so ist sind war waren wird werden hat haben zeigt zeigen sich auch nur noch sehr etwa",
        "circa ca es er sie man dies diese dieser dieses jeder beide beiden beider beides",
        "beidseits bds beidseitig bilateral mehrere viele wenige zwei drei vier fünf sechs sieben",
        "acht neun zehn erste zweite dritte oben unten mitte mittig mittel mittlere mittlerer",
        "mittleren mittleres obere oberer oberen oberes untere unterer unteren unteres ober",
        "vordere vorderer hintere hinterer innen aussen außen zentral peripher basal apikal",
        "kranial kaudal ventral dorsal medial lateral rechts links lunge lungen lungenflügel",
        "oberlappen unterlappen mittellappen oberfeld unterfeld mittelfeld niere nieren leber",
        "milz brust mamma herz pleura hilus bauch kopf hals gehirn hirn auge ohr hand fuß bein",
        "arm knie hüfte schulter becken magen darm blase knochen rippe rippen haut gefäß gefäße",
        "arterie vene herd herde herdes läsion läsionen laesion tumor tumoren tumors",
        "raumforderung befund befunde knoten zyste zysten infiltrat infiltrate verschattung",
        "verdichtung erguss pleuraerguss pneumonie entzündung infektion metastase metastasen",
        "karzinom abszess blutung fraktur stein polyp polypen rund runde runder rundes runden",
        "klein kleine kleiner kleines kleinen groß große großer großes großen hell helle heller",
        "helles hellen dunkel dunkle dunkler dunkles dunklen scharf unscharf glatt dicht solide",
        "zystisch hypodens hyperdens hypodense hypodenser hypodenses hypodensen hyperdense",
        "hyperdenser hyperdenses echoarm echoreich echofrei seite seiten rand quadrant bild",
        "bildes hälfte teil bereich region zone scheibe kreis fleck normal gesund krank",
        "unauffällig nichts luft patient patientin",
    ),
)
