"""The codec: 24 kHz mono to 37 codes a frame and back."""

from voxtral_jax.codec.model import (
    Codec,
    CodecStream,
    decoder_names,
    decoder_places,
    encoder_names,
    encoder_places,
    fold,
    open_stream,
)

__all__ = [
    "Codec",
    "CodecStream",
    "decoder_names",
    "decoder_places",
    "encoder_names",
    "encoder_places",
    "fold",
    "open_stream",
]
