"""Portuguese: esquerdo and direito in their four forms, and their abbreviations."""

from __future__ import annotations

import re

from datamodules.captions.languages.words import Language, both_ways, word_set

PORTUGUESE = Language(
    code="pt",
    sides=both_ways({f"esquerd{end}": f"direit{end}" for end in ("o", "a", "os", "as")}),
    short=both_ways({"esq": "dir"}),
    letters=frozenset("áâãàçéêíóôõúü"),
    plain=re.compile("diret[ao]s?|endireit\\w+|direc?tamente|estreit[ao]s?"),
    doubtful=re.compile("esq\\w*|dt[ao]?s?|direit\\w*|canhot[ao]|destr[ao]s?|sinistr\\w*|levo\\w+"),
    letter_sides="EDLR",
    unclear=re.compile(
        r"\bdireitos? (a|de|do|da|dos|das|humanos)\b(?= (paciente|pacientes|saude))|\ba direito\b|"
        r"\blob[oó]s?\b|\blobulos?\b|\blobar(es)?\b|\b(hepatic[ao]s?|porta|portal|ventricul\w+|atri\w+|"
        r"auricul\w+|coracao|cardiac[ao]s?|coronari[ao]s?|colon|colic[ao]s?|hemicolon|flexuras?|"
        r"gastric[ao]s?|hipocondrios?|fossa iliaca|ramo)\b"
    ),
    clock=re.compile(r"\b(as )?\d{1,2} ?(h|horas?)\b|\bhoras?\b|\d:\d\d"),
    endings=re.compile(
        "..(cao|coes|sao|soes|mente|dade|dades|ado|ada|ados|adas|ido|ida|idos|idas|oso|osa|ico|ica|"
        "icos|icas|ite|ites|oma|omas|mento|ais|ares|agem|eira|eiro)$"
    ),
    words=word_set(
        "o a os as um uma uns umas de do da dos das no na nos nas ao à aos às em com sem por pelo",
        "pela para e ou não nem é são está estão há se seu sua que qual muito mais menos pouco",
        "este esta esse essa ambos ambas cada todo toda todos todas nenhum nenhuma sobre sob",
        "entre até dois duas três quatro cinco seis sete oito nove dez primeiro primeira",
        "bilateral bilaterais unilateral superior superiores inferior inferiores médio média",
        "central centro periférico periférica externo externa interno interna medial lateral",
        "anterior posterior lado lados zona zonas região parte partes metade borda terço",
        "quadrante base ápice hilo acima abaixo pulmão pulmões pulmonar pulmonares mama mamas",
        "mamário mamária rim rins renal fígado baço pleura tórax abdome abdômen cabeça cérebro",
        "olho orelha mão pé perna braço joelho quadril ombro pelve lesão lesões tumor tumores",
        "massa massas nódulo nódulos cisto cistos opacidade opacidades derrame infecção infecções",
        "infiltrado consolidação foco focos pneumonia abscesso pólipo pólipos câncer carcinoma",
        "metástase fratura cálculo disco círculo mancha imagem pequeno pequena pequenos pequenas",
        "grande grandes redondo redonda oval claro clara escuro escura brilhante brilhantes preto",
        "preta branco branca cinza vermelho irregular regular difuso difusa sólido sólida cístico",
        "hipodensa hipodenso hiperdensa hiperdenso hipoecoico normal saudável paciente visível",
    ),
)
