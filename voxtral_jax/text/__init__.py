"""Text in: clean-up, sentences, expected duration, tokens."""

from voxtral_jax.text.cleanup import check, clean
from voxtral_jax.text.duration import FrameLimits, estimate_seconds, frame_limits
from voxtral_jax.text.sentences import Part, language_of, split_sentences, split_text
from voxtral_jax.text.tokenizer import (
    ByteTokenizer,
    PhonemeTokenizer,
    TekkenTokenizer,
    Tokenizer,
    load_tokenizer,
)

__all__ = [
    "ByteTokenizer",
    "FrameLimits",
    "Part",
    "PhonemeTokenizer",
    "TekkenTokenizer",
    "Tokenizer",
    "check",
    "clean",
    "estimate_seconds",
    "frame_limits",
    "language_of",
    "load_tokenizer",
    "split_sentences",
    "split_text",
]
