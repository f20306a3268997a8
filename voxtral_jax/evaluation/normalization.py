"""Text as it is compared: what is written differently but spoken alike must not count as an error.

Lower case, no punctuation, digits as words; Mandarin in simplified characters, Japanese as its
reading, Korean without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

from voxtral_jax.errors import ConfigError

BY_CHARACTERS = ("zh", "ja", "ko")
"""Languages whose main figure is the character error rate."""
NUMBERS = {"pt": "pt_BR"}
"""num2words' names of languages, where they differ from ours."""
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)\b")
GROUPS = re.compile(r"\d{1,3}(?:[.,]\d{3})+")
"""A number whose separators are those of thousands."""
APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´′", "'"))
JOINED = re.compile(r"(?<=\w)'(?=\w)")


def normalize(text: str, language: str) -> str:
    """The text in the form that is compared; words stand between single spaces.

    Args:
        text: what should be said, or what was heard.
        language: a code such as "en".

    Raises:
        ConfigError: a package that the language needs is missing.
    """
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHES).casefold()
    if language == "zh":
        text = _simplified()(text)
    if language == "ja":
        return _letters(_reading()(text))
    text = _spell_numbers(text, language)
    # "don't" is one word, "l'homme" is two.
    text = JOINED.sub("" if language == "en" else " ", text)
    return " ".join(_letters(text, keep_spaces=True).split())


def _letters(text: str, *, keep_spaces: bool = False) -> str:
    """Letters, marks and digits; anything else is a space, or nothing."""
    other = " " if keep_spaces else ""
    return "".join(c if unicodedata.category(c)[0] in "LMN" else other for c in text)


def _spell_numbers(text: str, language: str) -> str:
    if not any(c.isdigit() for c in text):
        return text
    if language == "zh":
        cn2an = require("cn2an", "cn2an")
        return NUMBER.sub(_spelled(lambda m: cn2an.an2cn(m[0].replace(",", ""), "low")), text)
    num2words = require("num2words", "num2words").num2words
    name = NUMBERS.get(language, language)
    if language == "en":
        text = ORDINAL.sub(_spelled(lambda m: f" {num2words(int(m[1]), to='ordinal')} "), text)
    return NUMBER.sub(_spelled(lambda m: f" {num2words(_value(m[0]), lang=name)} "), text)


def _spelled(spell: Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
    """Digits stay where no words are known: another language, 1.2.3, or more than it counts to."""

    def replace(match: re.Match[str]) -> str:
        try:
            return spell(match)
        except (NotImplementedError, OverflowError, ValueError):
            return match[0]

    return replace


def _value(number: str) -> int | float:
    """What digits with separators mean: 1,000 and 1.000 are thousands, 1,5 and 1.5 are not."""
    if GROUPS.fullmatch(number):
        return int(re.sub("[.,]", "", number))
    whole, *rest = re.split("[.,]", number)
    return float(f"{whole}.{''.join(rest)}") if rest else int(whole)


@cache
def _simplified() -> Callable[[str], str]:
    return require("opencc", "opencc-python-reimplemented").OpenCC("t2s").convert


@cache
def _reading() -> Callable[[str], str]:
    """Japanese to the kana of its pronunciation, digits read out."""
    openjtalk = require("pyopenjtalk", "pyopenjtalk-plus")
    return lambda text: openjtalk.g2p(text, kana=True) if text.strip() else ""


def require(module: str, package: str) -> Any:
    """Imports a module of an optional package.

    Raises:
        ConfigError: it is missing; the message names the command that installs it.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"evaluation needs {package} ({error}); pip install {package}") from error
