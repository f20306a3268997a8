"""Text to token ids: Tekken (released model), bytes or phonemes (small models)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from voxtral_jax.errors import CheckpointError
from voxtral_jax.text.phonemes import LANGUAGES, SYMBOLS, phonemes
from voxtral_jax.text.sentences import language_of

TEKKEN_FILE = "tekken.json"
TEXT_TO_AUDIO = "[NEXT_AUDIO_TEXT]"
AUDIO_TO_TEXT = "[REPEAT_AUDIO_TEXT]"
TEXT_TO_AUDIO_ID, AUDIO_TO_TEXT_ID = 36, 35
"""Ids of the two markers in the released tokenizer."""


class Tokenizer(Protocol):
    """What the prompt needs of a tokenizer."""

    begin_text: int
    """Marker before the text (text to audio)."""
    end_text: int
    """Marker after the text (audio to text)."""
    needs_language: bool
    """Whether the ids of a text depend on its language."""

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of the text alone; a language that is needed and not named is detected."""


class TekkenTokenizer:
    """The released tokenizer, read from `tekken.json` by mistral-common.

    Raises:
        CheckpointError: the file is missing or malformed.
    """

    needs_language = False

    def __init__(self, path: Path) -> None:
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; the model's text needs it")
        try:
            self._tekken = Tekkenizer.from_file(path)
        except Exception as error:  # json, pydantic, key and assertion errors alike
            raise CheckpointError(f"{path} is not a Tekken tokenizer: {error}") from error
        self.begin_text = self._special(TEXT_TO_AUDIO, TEXT_TO_AUDIO_ID)
        self.end_text = self._special(AUDIO_TO_TEXT, AUDIO_TO_TEXT_ID)

    def _special(self, name: str, otherwise: int) -> int:
        try:
            return self._tekken.get_special_token(name)
        except (ValueError, KeyError):
            # Files before version 13 do not name their special tokens; the ids are the same.
            return otherwise

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of the text alone."""
        return self._tekken.encode(text, bos=False, eos=False)


class ByteTokenizer:
    """One id for each UTF-8 byte, after 64 reserved ids that mean what they mean in Tekken."""

    begin_text = TEXT_TO_AUDIO_ID
    end_text = AUDIO_TO_TEXT_ID
    reserved = 64
    vocab_size = reserved + 256
    needs_language = False

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of the text alone."""
        return [self.reserved + byte for byte in text.encode("utf-8")]


class PhonemeTokenizer:
    """The language, then one id for each phoneme, after the same reserved ids as bytes."""

    begin_text = TEXT_TO_AUDIO_ID
    end_text = AUDIO_TO_TEXT_ID
    reserved = 64
    vocab_size = reserved + 256
    languages = 32
    """Ids kept for languages, so that a new one moves no symbol."""
    needs_language = True

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of the text alone.

        Raises:
            TextError: the text cannot be pronounced.
        """
        language = language or language_of(text)
        spelled = phonemes(text, language)
        first = self.reserved + self.languages
        return [
            self.reserved + LANGUAGES.index(language),
            *(first + SYMBOLS.index(symbol) for symbol in spelled),
        ]


def load_tokenizer(directory: Path, kind: str) -> Tokenizer:
    """The tokenizer of a model directory; `kind` is `params.json`'s `tokenizer`."""
    if kind == "bytes":
        return ByteTokenizer()
    return PhonemeTokenizer() if kind == "phonemes" else TekkenTokenizer(directory / TEKKEN_FILE)
