"""How the nine languages are pronounced."""

from __future__ import annotations

import pytest

from voxtral_jax.errors import TextError
from voxtral_jax.text.phonemes import LANGUAGES, SYMBOLS, phonemes

SAID = {
    "en": ("The fisherman paid $5.", "fˈɪʃɚmən"),
    "fr": ("Où vas-tu, mon ami ?", "amˈi"),
    "de": ("Die Straße ist größer.", "ʃtʁˈɑːsə"),
    "es": ("¿Cómo está usted?", "kˈomo"),
    "it": ("Gli piace la città.", "ʎɪ"),
    "pt": ("O que fazer amanhã?", "ɲˈɐ"),
    "zh": ("今天天气很好。", "xau↓"),
    "ja": ("行きましょう。", "maɕoː"),
    "ko": ("안녕하세요.", "annjʌŋ"),
}
PACKAGES = dict.fromkeys(SAID, "misaki.espeak") | {
    "zh": "misaki.zh",
    "ja": "misaki.ja",
    "ko": "kokorog2p.ko",
}


def test_symbols_are_one_character_each_and_never_twice() -> None:
    assert len(set(SYMBOLS)) == len(SYMBOLS)
    assert set(SAID) == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_is_pronounced_in_one_set_of_symbols(language: str) -> None:
    pytest.importorskip(PACKAGES[language], reason="needs voxtral-jax[phonemes]")
    text, within = SAID[language]
    spelled = phonemes(text, language)
    assert within in spelled
    assert set(spelled) <= set(SYMBOLS)
    assert spelled == spelled.strip()


def test_a_language_that_cannot_be_spoken_is_named() -> None:
    with pytest.raises(TextError, match='does not speak "sw"'):
        phonemes("Habari ya asubuhi", "sw")


def test_a_text_without_sounds_is_refused() -> None:
    pytest.importorskip("misaki.espeak", reason="needs voxtral-jax[phonemes]")
    with pytest.raises(TextError, match="can be pronounced"):
        phonemes("...", "en")
