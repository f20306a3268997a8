"""Text to token ids: Tekken (released model) or bytes (small models)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from voxtral_jax.errors import CheckpointError

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

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone."""


class TekkenTokenizer:
    """The released tokenizer, read from `tekken.json` by mistral-common.

    Raises:
        CheckpointError: the file is missing or malformed.
    """

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

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone."""
        return self._tekken.encode(text, bos=False, eos=False)


class ByteTokenizer:
    """One id for each UTF-8 byte, after 64 reserved ids that mean what they mean in Tekken."""

    begin_text = TEXT_TO_AUDIO_ID
    end_text = AUDIO_TO_TEXT_ID
    reserved = 64
    vocab_size = reserved + 256

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone."""
        return [self.reserved + byte for byte in text.encode("utf-8")]


def load_tokenizer(directory: Path, kind: str) -> Tokenizer:
    """The tokenizer of a model directory; `kind` is `params.json`'s "tekken" or "bytes"."""
    return ByteTokenizer() if kind == "bytes" else TekkenTokenizer(directory / TEKKEN_FILE)
