"""An inaudible mark in the sound itself: whoever has the key can tell that a machine spoke.

    marked = embed(samples, rate)
    detect(marked, rate).present

What it is, what it survives and how often it errs: docs/watermark.md.
"""

from voxtral_jax.watermark.detection import Detection as Detection
from voxtral_jax.watermark.detection import detect as detect
from voxtral_jax.watermark.marking import MarkState as MarkState
from voxtral_jax.watermark.marking import Watermark as Watermark
from voxtral_jax.watermark.marking import embed as embed
from voxtral_jax.watermark.pattern import KEY as KEY
