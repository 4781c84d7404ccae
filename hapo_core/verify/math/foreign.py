"""Chinese and Russian: units of measure in English, connectives, words that count left out."""

from __future__ import annotations

import re

_CHINESE_UNITS = """
平方厘米=cm^2 立方厘米=cm^3 平方千米=km^2 平方分米=dm^2 平方米=m^2 立方米=m^3 厘米=cm 毫米=mm
分米=dm 千米=km 公里=km 千克=kg 公斤=kg 毫升=mL 分钟=minute 小时=hour 米=m 克=g 吨=tonne 升=L
秒=second 天=day
"""
_CHINESE_COUNTED = "元 个 人 年 岁 只 本 支 件 棵 页 度 名 张 条 次 种 辆 枚 块 颗 倍"
"""The last is a multiple: `3倍` is three times. Words that change a number (dozens, myriads) are
not here."""
_RUSSIAN_UNITS = """
кг=kg км=km см=cm мм=mm дм=dm мл=mL м=m г=g л=L т=tonne с=second сек=second ч=hour мин=minute
км/ч=km/h м/с=m/s час=hour часа=hour часов=hour минут=minute минута=minute минуты=minute
секунд=second секунда=second секунды=second день=day дня=day дней=day неделя=week недели=week
недель=week метр=m метра=m метров=m километр=km километра=km километров=km литр=L литра=L
литров=L градус=degrees градуса=degrees градусов=degrees
"""
_RUSSIAN_COUNTED = """
руб рубль рубля рублей человек человека штук штуки штука шт лет год года раз раза
"""
"""`пар` (pairs), `дюжин`, `тысяч` are not here."""


def _table(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split())


def _any(words: list[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_MEASURES = _table(_CHINESE_UNITS), _table(_RUSSIAN_UNITS)
_END = r"(?=\s*(?:[,;$}]|and |or |$))"
_CHINESE_MEASURE = re.compile(rf"(?<=[\d}}])\s*({_any(list(_MEASURES[0]))}){_END}")
_CHINESE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\s*或者?\s*", " or "),
        (r"\s*[和与]\s*", " and "),
        (r"(?<=\d)又(?=\d|\\)", " "),
        (r"(?<=\d)\s*万", r" \\times 10^{4} "),
        (r"(?<=\d)\s*亿", r" \\times 10^{8} "),
        (rf"(?<=[\d}}])\s*(?:{_any(_CHINESE_COUNTED.split())}){_END}", ""),
        (r"^(?:答案(?:是|为|[:：])|答[:：])\s*", ""),
    ]
]
_CHINESE_SIGN = re.compile(r"[\u4e00-\u9fff]")
_RUSSIAN_SIGN = re.compile(r"[\u0400-\u04ff]")
_RUSSIAN = re.compile(
    r"(?<=[\d}])\s*(?:\\text\s*\{\s*)?"
    rf"(?:({_any(list(_MEASURES[1]))})|{_any(_RUSSIAN_COUNTED.split())})\.?\s*"
    r"(?:\}\s*)?(?:\^\s*\{?([23])\}?)?\s*\}?\s*$"
)


def units_and_words(text: str) -> str:
    """The text with units that the other rules know, so that `12 км` is no 12 m."""
    if _RUSSIAN_SIGN.search(text):
        text = _RUSSIAN.sub(lambda m: _unit(_MEASURES[1][m[1]], m[2] or "") if m[1] else "", text)
    if _CHINESE_SIGN.search(text):
        text = _CHINESE_MEASURE.sub(lambda m: _unit(*_MEASURES[0][m[1]].split("^")), text)
        for pattern, replacement in _CHINESE:
            text = pattern.sub(replacement, text)
    return text


def _unit(name: str, power: str = "") -> str:
    return f"\\text{{ {name}}}" + (f"^{power}" if power else "")
