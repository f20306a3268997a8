"""How the nine languages are pronounced."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from voxtral_jax import Model
from voxtral_jax.errors import ConfigError, RequestError, TextError
from voxtral_jax.text import PhonemeTokenizer, load_tokenizer
from voxtral_jax.text.korean import in_words
from voxtral_jax.text.phonemes import LANGUAGES, SYMBOLS, phonemes
from voxtral_jax.utterance import Options, prepare

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


def test_symbols_are_one_character_each_and_never_twice() -> None:
    assert len(set(SYMBOLS)) == len(SYMBOLS)
    assert set(SAID) == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_is_pronounced_in_one_set_of_symbols(language: str) -> None:
    text, within = SAID[language]
    spelled = phonemes(text, language)
    assert within in spelled
    assert set(spelled) <= set(SYMBOLS)
    assert spelled == spelled.strip()


def test_readings_of_odd_length_are_pronounced() -> None:
    assert phonemes("テシィケ、と彼は言った。", "ja").startswith("te")


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("3개", "세개"),
        ("20살, 21살", "스무살, 스물한살"),
        ("3개월", "삼개월"),
        ("11시 30분", "열한시 삼십분"),
        ("2024년 12월 25일", "이천이십사년 십이월 이십오일"),
        ("$5,000", "오천 달러"),
        ("3.05%", "삼 점 영오 퍼센트"),
        ("20°C", "이십도"),
        ("010", "공일공"),
        ("9" * 30, "구" * 30),
        ("파일 - 열기/닫기", "파일   열기 닫기"),
    ],
)
def test_korean_numbers_and_signs_are_words(text: str, spoken: str) -> None:
    assert in_words(text).strip() == spoken
    assert phonemes(text, "ko") == phonemes(spoken, "ko")


@pytest.mark.parametrize(
    ("text", "language", "before", "after"),
    [
        ("我用LibreOffice写文档。", "zh", "我用", "写文档。"),
        ("파일은 LibreOffice에서 엽니다.", "ko", "파일은", "에서 엽니다."),
    ],
)
def test_english_words_within_another_script_are_read(text, language, before, after) -> None:
    parts = [(before, language), ("LibreOffice", "en"), (after, language)]
    assert phonemes(text, language) == " ".join(phonemes(*part) for part in parts)
    assert phonemes("OK!", language).endswith("kˈA!")


def test_what_cannot_be_pronounced_is_named() -> None:
    with pytest.raises(TextError, match="日本"):
        phonemes("日本 사람", "ko")


def test_a_language_that_cannot_be_spoken_is_named() -> None:
    with pytest.raises(TextError, match='does not speak "sw"'):
        phonemes("Habari ya asubuhi", "sw")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(language: str) -> None:
        raise ModuleNotFoundError("No module named 'misaki'")

    monkeypatch.setattr("voxtral_jax.text.phonemes._pronunciation", missing)
    with pytest.raises(ConfigError, match=r"misaki.*pip install voxtral-jax"):
        phonemes("A text never pronounced before.", "en")


def test_a_text_without_sounds_is_refused() -> None:
    with pytest.raises(TextError, match="can be pronounced"):
        phonemes("...", "en")


@pytest.fixture
def spelling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pronunciation that needs no package: the letters themselves."""
    monkeypatch.setattr("voxtral_jax.text.phonemes._pronunciation", lambda language: str.lower)
    phonemes.cache_clear()
    yield
    phonemes.cache_clear()


def test_ids_begin_with_the_language_and_are_those_of_the_symbols(spelling) -> None:
    tokenizer = PhonemeTokenizer()
    english, spanish = tokenizer.encode("ola a", "en"), tokenizer.encode("ola a", "es")
    assert english[0] != spanish[0]
    assert english[1:] == spanish[1:]
    assert len(english) == 6
    assert english[3] == english[5]
    german = tokenizer.encode("a", "de")[0]
    assert tokenizer.encode("Guten Tag, wie geht es Ihnen heute?")[0] == german
    every = {tokenizer.reserved + tokenizer.languages + i for i in range(len(SYMBOLS))}
    assert tokenizer.reserved + len(LANGUAGES) <= min(every)
    assert max(every) < tokenizer.vocab_size


def test_a_language_can_be_asked_for(spelling, model: Model) -> None:
    spells = dataclasses.replace(model, tokenizer=PhonemeTokenizer())
    options = Options(max_seconds=0.5)
    text = "Hola. " * 30 + "Es ist ein schöner Tag für einen Spaziergang."

    def languages(language: str | None) -> set[int]:
        utterance = prepare(spells, [text], None, None, 0, language, options)[0]
        return {line.ids[line.ids.index(36) + 1] for line in utterance.lines}

    german, spanish = (PhonemeTokenizer().encode("a", name)[0] for name in ("de", "es"))
    assert languages("de") == {german}
    assert languages("es") == {spanish}
    assert len(languages(None)) == 1
    with pytest.raises(TextError, match="does not speak"):
        languages("sw")
    with pytest.raises(RequestError, match="language"):
        prepare(spells, [text], None, None, 0, 3, options)
    with pytest.raises(RequestError, match="2 values"):
        prepare(spells, [text], None, None, 0, ["de", "es"], options)


def test_small_models_may_read_phonemes(reference: Path) -> None:
    assert isinstance(load_tokenizer(reference, "phonemes"), PhonemeTokenizer)


def test_more_than_a_pronunciation_takes_at_once_is_refused() -> None:
    with pytest.raises(TextError, match='cannot be pronounced in "ja"'):
        phonemes("あ" * 7000, "ja")
