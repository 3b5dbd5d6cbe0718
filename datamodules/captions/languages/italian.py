"""Italian: sinistro and destro in their four forms, and sx and dx."""

from __future__ import annotations

import re

from datamodules.captions.languages.words import Language, both_ways, word_set

ITALIAN = Language(
    code="it",
    sides=both_ways(
        {f"sinistr{end}": f"destr{end}" for end in ("o", "a", "i", "e")} | {"sx": "dx"}
    ),
    short=both_ways({"sin": "des", "sn": "ds"}),
    letters=frozenset("àèéìíîòóùú"),
    plain=re.compile(
        "finestr[aeo]|maldestr\\w*|ambidestr\\w*|destrosio|maestr[aoie]|estr[ao]|desto"
    ),
    doubtful=re.compile("sinistr\\w*|destr\\w*|(mancin|manc)[ao]|dxt|levo\\w+"),
    letter_sides="SDLR",
    unclear=re.compile(
        r"\blob[oi]\b|\blobar[ei]\b|\b(epatic[aoei]|epatiche|port(a|ale|ali)|ventricol\w+|atri\w*|"
        r"auricol\w+|cuore|cardiac\w+|coronari\w+|colon|colic\w+|emicolon|flessur\w+|gastric\w+|"
        r"ipocondri\w+|fossa iliaca|branca)\b"
    ),
    clock=re.compile(r"\b(ore|h) \d{1,2}\b|\balle \d{1,2}\b|\d:\d\d"),
    endings=re.compile(
        "..(zione|zioni|sione|sioni|mente|ita|ato|ata|ati|ate|uto|uta|oso|osa|osi|ose|ico|ica|ici|"
        "iche|ale|ali|are|ari|ite|iti|oma|omi|ezza|ella|ello)$"
    ),
    words=word_set(
        "il lo la i gli le l un uno una di del dello della dei degli delle dell d a al allo alla",
        "ai agli alle all da dal dalla in nel nello nella nei nelle nell con su sul sulla sulle",
        "per tra fra e ed o non è sono si suo sua che cui molto più meno poco questo questa ogni",
        "entrambi entrambe tutto tutta nessun nessuna senza sotto sopra verso due tre quattro",
        "cinque sei sette otto nove dieci primo prima bilaterale bilaterali bilateralmente",
        "unilaterale superiore superiori inferiore inferiori medio media centrale centro",
        "periferico periferica esterno esterna interno interna mediale laterale anteriore",
        "posteriore lato lati zona zone regione parte parti metà margine terzo quadrante",
        "quadranti base apice ilo alto basso polmone polmoni polmonare polmonari mammella",
        "mammelle mammario rene reni renale fegato milza pleura torace addome testa cervello",
        "occhio orecchio mano piede gamba braccio ginocchio anca spalla bacino lesione lesioni",
        "tumore tumori massa masse nodulo noduli cisti opacità versamento infezione infiltrato",
        "infiltrati consolidazione focolaio focolai polmonite ascesso polipo polipi cancro",
        "carcinoma metastasi frattura calcolo disco cerchio macchia immagine piccolo piccola",
        "piccoli piccole grande grandi rotondo rotonda ovale chiaro chiara scuro scura brillante",
        "luminoso nero nera bianco bianca grigio rosso irregolare regolare diffuso diffusa solido",
        "solida cistico ipodensa ipodenso iperdensa iperdenso ipoecogeno normale sano sana",
        "paziente visibile",
    ),
)
