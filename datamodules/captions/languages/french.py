"""French: gauche has one gender and droit two, so that the noun decides what gauche becomes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datamodules.captions.languages.words import Language, clause_words, word_set

_MASCULINE = word_set(
    "poumon poumons sein seins rein reins lobe lobes foie côté côtés champ champs bord bords hile",
    "hiles quadrant quadrants segment hémithorax thorax sommet sommets cul apex hypochondre flanc",
    "flancs nodule nodules kyste kystes foyer foyers épanchement épanchements abcès polype polypes",
    "cancer cancers carcinome bras genou pied pieds oeil œil sinus maxillaire ganglion ganglions",
    "muscle os tiers quart infiltrat infiltrats ventricule ovaire testicule uretère bassin coude",
    "supérieur supérieurs inférieur inférieurs moyen moyens médian antérieur postérieur",
    "situé rond creux pli cerveau lobule hémisphère hémisphères mamelon",
)
_FEMININE = word_set(
    "lésion lésions base bases masse masses opacité opacités tumeur tumeurs région régions plèvre",
    "partie parties moitié moitiés zone zones face faces joue glande glandes main mains jambe",
    "jambes hanche épaule épaules mamelle aisselle fosse loge surrénale artère veine bronche",
    "clavicule coupole cuisse cheville oreille orbite tempe image images hernie",
    "supérieure supérieures inférieure inférieures moyenne moyennes antérieure postérieure située",
    "ronde pneumonie infection infiltration consolidation condensation atélectasie tache taches",
    "métastase métastases calcification plage plages pyramide",
)
_TO_A_SIDE = frozenset(("a", "la", "de", "sa", "vers"))  # à gauche, la gauche, de gauche


class French(Language):
    """French asks the words before gauche for their gender."""

    def _clause(self, before: str) -> list[str]:
        return clause_words(before)

    def _partner(self, word: str, before: Sequence[str]) -> str | None:
        if word in self.sides:
            return self.sides[word]
        if word not in ("gauche", "gauches"):
            return None
        plural = "s" if word == "gauches" else ""
        if before and before[-1] in _TO_A_SIDE:
            return f"droite{plural}"
        for near in reversed(before[-6:]):
            if near in _MASCULINE or near in _FEMININE:
                return ("droit" if near in _MASCULINE else "droite") + plural
        return ""

    def names_side(self, word: str) -> bool:
        """Whether a folded word names a side."""
        return word in self.sides or word in ("gauche", "gauches")


FRENCH = French(
    code="fr",
    sides={"droit": "gauche", "droite": "gauche", "droits": "gauches", "droites": "gauches"},
    letters=frozenset("àâäçéèêëîïôöùûüÿœæ"),
    plain=re.compile(
        "doi[ts]|endroits?|adroit\\w*|maladroit\\w*|etroit\\w*|froids?|croit|broit|gaucher(e|s)?|"
        "gach(e|es|er)|trois|detroit"
    ),
    doubtful=re.compile(
        "gauch\\w*|droit\\w*|(dextr|senestr|sinistr)\\w*|drte?|dte?s?|dr|gch?e?|gau?"
    ),
    letter_sides="GDLR",
    unclear=re.compile(
        r"\btout droit\b|\bangles? droits?\b|\blignes? droites?\b|\bgrands? droits?\b|"
        r"\bmuscles? droits?\b|\bdroit de l.abdomen\b|"
        r"\blobes?\b|\blobaires?\b|"
        r"\b(hepatiques?|portes?|portale?s?|ventricul\w+|oreillettes?|atri\w+|auricul\w+|coeur|cœur|"
        r"cardiaques?|coronair\w+|colons?|coliques?|hemicolon|angles? coliques?|gastriques?|"
        r"hypochondres?|fosse iliaque|branche)\b"
    ),
    clock=re.compile(r"\b\d{1,2} ?h(eures?)?\b|\d:\d\d"),
    endings=re.compile(
        "..(tions?|sions?|ites?|ment|eux|euses?|aires?|iques?|ales?|elles?|ees?|eurs?|ures?|ites?|"
        "omes?|ose|oses|ique|ance|ence|antes?|entes?)$"
    ),
    words=_MASCULINE
    | _FEMININE
    | word_set(
        "le la les l un une des du de d au aux à en dans sur sous par pour avec sans et ou ni ne",
        "pas est sont était a ont il elle on ce cet cette ces son sa ses leur leurs qui que dont",
        "où plus moins très peu non aucun aucune tout toute tous toutes chaque deux trois quatre",
        "cinq six sept huit neuf dix premier première bilatéral bilatérale bilatéraux bilatérales",
        "unilatéral bilatéralement haut haute bas basse milieu centre central centrale centrée",
        "périphérique externe interne médial médiale latéral latérale petit petite petits petites",
        "grand grande grands grandes gros grosse clair claire sombre sombres brillant brillante",
        "noir noire blanc blanche gris grise rouge rose rond ronde ronds rondes ovale irrégulier",
        "irrégulière régulier hypodense hyperdense isodense hypoéchogène hyperéchogène anéchogène",
        "kystique solide dense diffuse diffus floue flou nette net disque cercle ligne normal",
        "normale sain saine anormal pulmonaire pulmonaires pleural pleurale rénal rénale mammaire",
        "patient patiente visible visibles situés situées près entre vers contre chez",
    ),
)
