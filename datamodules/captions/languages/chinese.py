"""Chinese: 左 and 右, which also stand in "about" (左右) and in names of drugs."""

# ruff: noqa: RUF001 - digits of full width are meant

from __future__ import annotations

import re

from datamodules.captions.languages.words import Language

_EXCHANGED = str.maketrans("左右", "右左")
# "about", "left and right" and names of drugs hold the characters and name no side.
_NO_SIDE = re.compile("左右|左旋|右旋|左氧氟|左乙拉|左甲状|左卡尼|左西孟|右美|右佐匹|右丙亚")
_UNCLEAR = re.compile(
    # A left-hander, and "left and right" in an order of their own.
    "左撇|右撇|相左|右左"
    # Organs whose left and right parts differ: lobes, the heart, vessels of liver and stomach.
    "|(?<!小)[叶葉]|心[脏臟房室尖缘影底包肌]|[左右]心|[左右]房|房室|[左右]室|腦室|脑室|门静脉|門靜脈|门脉|肝静脉|肝靜脈|冠状动脉|冠狀動脈|冠脉"
    "|结肠|結腸|[脾肝]曲|束支|髂窝|胃[左右]|左主干|半肝|肝[左右](?![侧側边邊上下部])"
)
# Clock positions: 3点钟, 10-11点方向, 九点.
_CLOCK = re.compile("[0-9０-９一二三四五六七八九十半] ?[点點](?!状|狀|片|灶|样|樣)|[0-9]:[0-9]{2}")


class Chinese(Language):
    """Chinese has no spaces between words, so that characters are exchanged, not words."""

    def swapped(self, text: str) -> str | None:
        """Exchange 左 and 右, but not where both are one word."""
        if _CLOCK.search(text):
            return None
        pieces, at = [], 0
        for match in _NO_SIDE.finditer(text):
            pieces += [text[at : match.start()].translate(_EXCHANGED), match[0]]
            at = match.end()
        result = "".join([*pieces, text[at:].translate(_EXCHANGED)])
        return None if result != text and _UNCLEAR.search(text) else result


CHINESE = Chinese(code="zh", sides={}, words=frozenset())
