"""Numbers and signs in Korean text as words: its pronunciation reads Hangul alone."""

from __future__ import annotations

import re

from num2words import num2words

NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
COUNTED = re.compile(
    r"(?<![\d.,])\d{1,2}(?=\s?(?:개(?!월|국)|명|시|살|마리|권|달(?!러)|사람|가지|군데|그루|켤레|채|척|벌))"
)
"""A number before what is counted in Korean words; all others are read the Chinese way."""
MONEY = re.compile(rf"([$€₩¥£])\s?({NUMBER.pattern})")
CURRENCIES = {"$": "달러", "€": "유로", "₩": "원", "¥": "엔", "£": "파운드"}
SIGNS = {
    **{"%": " 퍼센트", "&": " 앤드 ", "+": " 더하기 ", "=": " 는 "},
    **dict.fromkeys(("°C", "°F", "℃", "℉", "°"), "도"),
}
LONGEST = 16
"""Digits of a number; longer ones are read digit by digit."""
SHORTENED = {"첫": "한", "스물": "스무"}
"""An ordinal to the form before what is counted, where they differ."""
UNREADABLE = re.compile(r"[^\w\s!\"(),.:;?—“”…'«»¡¿]|_")
"""What the pronunciation knows no pause for; most of it is a dash or a slash."""


def in_words(text: str) -> str:
    """A Korean text without digits and signs.

    Numbers before what is counted in Korean words (`3개`, `20살`) become such words, all others
    Chinese ones; amounts of money end with their currency.
    """
    text = MONEY.sub(lambda found: f"{found[2]} {CURRENCIES[found[1]]}", text)
    text = COUNTED.sub(lambda found: _native(int(found[0])), text)
    text = NUMBER.sub(lambda found: _chinese(found[0].replace(",", "")), text)
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    return UNREADABLE.sub(" ", text)


def _chinese(number: str) -> str:
    whole, _, decimals = number.partition(".")
    if len(whole) > LONGEST or (len(whole) > 1 and whole[0] == "0"):  # a telephone's, say
        words = _digits(whole).replace("영", "공")
    else:
        words = num2words(int(whole), lang="ko")
    return f"{words} 점 {_digits(decimals)}" if decimals else words


def _digits(number: str) -> str:
    return "".join(num2words(int(digit), lang="ko") for digit in number)


def _native(number: int) -> str:
    if number == 0:
        return "영"
    word = str(num2words(number, lang="ko", to="ordinal")).removesuffix(" 번째")
    return SHORTENED.get(word, word)
