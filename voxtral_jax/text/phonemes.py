"""Text to phonemes: what small models read, so that they need not learn to spell.

One set of symbols (IPA, as Kokoro and misaki write it) for nine languages. The packages that know
how a language is pronounced are loaded when that language is first spoken.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

from voxtral_jax.errors import ConfigError, TextError

LANGUAGES = ("en", "fr", "de", "es", "it", "pt", "zh", "ja", "ko")
"""Languages with a pronunciation here; the order is that of their tokens and may only grow."""
SYMBOLS = (
    ' !"(),.:;?AIOQSTWYabcdefhijklmnopqrstuvwxyzæçðøŋœɐɑɒɔɕɖəɚɛɜɟɡɣɤɥɨɪɯɰɲɳɴɸɹɻɽɾʁʂʃʈʊʋʌʎʒʔʝ'
    "ʣʤʥʦʧʨʰʲˈˌː\u0303βθχᵊᵝᵻ—“”…→↓↗↘ꭧ¡¿«»-'ɫʏɱʉɵɓɗʼGKƫᶀᶁᶃᶄᶆᶈᶉ"
)
"""Symbols of all languages; the order is that of their tokens and may only grow."""
ESPEAK = {"en": "en-us", "fr": "fr-fr", "de": "de", "es": "es", "it": "it", "pt": "pt-br"}
"""Voices of eSpeak NG."""
KEPT = 2**17
"""Texts whose pronunciation is remembered: training reads them again in every epoch."""
SPACES = re.compile(r"\s+")
LATIN = re.compile(r"((?<!°)[A-Za-z](?:[A-Za-z0-9 .'’-]*[A-Za-z0-9])?)")
"""Words of Latin letters, with what stands between them."""
BEFORE_MARKS = re.compile(r" +(?=[,.!?;:…)”])")


@cache
def _pronunciation(language: str) -> Callable[[str], str]:
    """Text of one language to phonemes in the spelling of its package."""
    logging.getLogger("phonemizer").setLevel(logging.ERROR)  # words it counts otherwise than eSpeak
    if language in ESPEAK:
        from misaki.espeak import EspeakG2P

        espeak = EspeakG2P(language=ESPEAK[language])
        # German r: eSpeak writes the tapped one of the stage.
        uvular = str.maketrans("rɾ", "ʁʁ") if language == "de" else {}
        return lambda text: espeak(text)[0].translate(uvular)
    if language == "zh":
        import jieba
        from misaki.zh import ZHG2P

        jieba.setLogLevel(logging.ERROR)
        mandarin = ZHG2P()
        return lambda text: _with_english(text, lambda part: mandarin(part)[0])
    if language == "ja":
        return _japanese
    from kokorog2p.ko import KoreanG2P

    from voxtral_jax.text.korean import in_words

    korean = KoreanG2P()
    return lambda text: _with_english(text, lambda part: korean.phonemize(in_words(part)))


def _with_english(text: str, pronounce: Callable[[str], str]) -> str:
    """Latin words within another script are read as English ones."""
    parts = LATIN.split(text)
    if len(parts) == 1:
        return pronounce(text)
    english = _pronunciation("en")
    spelled = [
        english(part) if i % 2 else pronounce(part) for i, part in enumerate(parts) if part.strip()
    ]
    return BEFORE_MARKS.sub("", " ".join(spelled))


def _japanese(text: str) -> str:
    """OpenJTalk's reading in misaki's symbols; misaki's own pitch marks fail on some readings."""
    import pyopenjtalk
    from misaki.ja import JAG2P, M2P, PUNCT_MAP

    spelled = ""
    for word in pyopenjtalk.run_frontend(text):
        moras = JAG2P.pron2moras(word["pron"]) if word["mora_size"] else []
        mark = PUNCT_MAP.get(word["string"], word["string"])
        spelled += "".join(M2P[mora] for mora in moras) or f"{mark} "
    return spelled


@lru_cache(maxsize=KEPT)
def phonemes(text: str, language: str) -> str:
    """How a text is pronounced.

    Args:
        text: cleaned text; may have digits and abbreviations.
        language: one of `LANGUAGES`.

    Returns:
        Characters of `SYMBOLS`. Others that a pronunciation holds are left out.

    Raises:
        ConfigError: the package that knows the language is missing.
        TextError: no pronunciation of the language is known, or the text has none in it.
    """
    if language not in LANGUAGES:
        raise TextError(
            f'this model does not speak "{language}"; it knows {", ".join(LANGUAGES)}. '
            "Name the language if it was mistaken"
        )
    try:
        spelled = unicodedata.normalize("NFC", _pronunciation(language)(text))
    except ImportError as error:
        raise ConfigError(
            f'pronouncing "{language}" needs a package that is missing ({error}); '
            "pip install voxtral-jax once more, with what it depends on"
        ) from error
    # Chinese characters, say, in Korean; more than OpenJTalk takes at once.
    except (ValueError, RuntimeError) as error:
        raise TextError(f'"{text[:40]}" cannot be pronounced in "{language}": {error}') from error
    spelled = spelled.replace("g", "ɡ")
    # NFC joins a vowel and its tilde; the symbols keep them apart.
    spelled = "".join(
        part
        for character in spelled
        for part in (character if character in SYMBOLS else unicodedata.normalize("NFD", character))
        if part in SYMBOLS
    )
    spelled = SPACES.sub(" ", spelled).strip()
    if not any(character.isalpha() for character in spelled):
        raise TextError(f'nothing in "{text[:40]}" can be pronounced in "{language}"')
    return spelled
