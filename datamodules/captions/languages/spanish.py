"""Spanish: izquierdo and derecho in their four forms, and their abbreviations."""

from __future__ import annotations

import re

from datamodules.captions.languages.words import Language, both_ways, word_set

SPANISH = Language(
    code="es",
    sides=both_ways({f"izquierd{end}": f"derech{end}" for end in ("o", "a", "os", "as")}),
    short=both_ways({"izq": "der", "izqda": "dcha", "izqdo": "dcho"}),
    letters=frozenset("áéíóúüñ"),
    plain=re.compile("(des|estr|p|l|t|h)echo|derechura|derrames?"),
    doubtful=re.compile(
        "izq\\w*|izd[ao]s?|dch[ao]?s?|dt[ao]s?|derech\\w*|(siniestr|diestr|dextr|zurd)\\w*|levo\\w+"
    ),
    letter_sides="DILR",
    unclear=re.compile(
        r"\bderechos? (a|de|al|del)\b(?= (la salud|el paciente|los pacientes|pacientes?))|"
        r"\btodo derecho\b|\bde derecho\b|\bl[oó]bulos?\b|\blobar(es)?\b|"
        r"\b(hepatic[ao]s?|porta|portal(es)?|ventricul\w+|auricul\w+|atri\w+|corazon|cardiac[ao]s?|"
        r"coronari[ao]s?|colon|colic[ao]s?|hemicolon|flexuras?|gastric[ao]s?|hipocondrios?|"
        r"fosa iliaca|rama)\b"
    ),
    clock=re.compile(r"\b(a )?las \d{1,2}\b|\b\d{1,2} ?(h|hrs?|horas?)\b|\bhoras?\b|\d:\d\d"),
    endings=re.compile(
        "..(cion|ciones|sion|siones|mente|dad|dades|ado|ada|ados|adas|ido|ida|idos|idas|oso|osa|"
        "ico|ica|icos|icas|ista|itis|oma|omas|iento|ales|ares)$"
    ),
    words=word_set(
        "el la los las lo un una unos unas de del al a en con sin por para y e o u ni no si es",
        "son está están hay se su sus que cual muy más menos poco este esta estos estas ese esa",
        "ambos ambas cada todo toda todos todas ningún ninguna sobre bajo entre hacia desde hasta",
        "dos tres cuatro cinco seis siete ocho nueve diez primer primero primera bilateral",
        "bilaterales unilateral superior superiores inferior inferiores medio media central",
        "centro periférico periférica externo externa interno interna medial lateral anterior",
        "posterior lado lados zona zonas región parte partes mitad borde tercio cuadrante base",
        "ápice vértice hilio arriba abajo pulmón pulmones pulmonar pulmonares mama mamas mamario",
        "mamaria riñón riñones renal hígado bazo pleura tórax abdomen cabeza cerebro ojo oreja",
        "mano pie pierna brazo rodilla cadera hombro pelvis lesión lesiones tumor tumores masa",
        "masas nódulo nódulos quiste quistes opacidad opacidades derrame infección infecciones",
        "infiltrado infiltrados consolidación foco focos neumonía absceso pólipo pólipos cáncer",
        "carcinoma metástasis sangrado fractura cálculo disco círculo mancha imagen pequeño",
        "pequeña pequeños pequeñas grande grandes redondo redonda ovalado claro clara oscuro",
        "oscura brillante brillantes negro negra blanco blanca gris rojo irregular regular difuso",
        "difusa sólido sólida quístico hipodensa hipodenso hiperdensa hiperdenso hipoecoico",
        "hiperecoico normal sano sana paciente visible",
    ),
)
