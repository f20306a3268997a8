"""How good a model is: speech in several conditions, heard by judges that are trained or counted.

    python -m voxtral_jax.evaluation MODEL --set test.jsonl --out evaluation

`judge` scores one candidate for preference tuning: `judge = "voxtral_jax.evaluation:judge"`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from voxtral_jax.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from voxtral_jax.training.judging import Scores, Spoken


def misheard(samples: Float[np.ndarray, " S"], text: str, language: str) -> float:
    """Share of a text that Whisper hears wrongly in samples of 16 kHz; may exceed 1.

    By characters in Mandarin, Japanese and Korean, else by words.

    Raises:
        ConfigError: Whisper, or a package that the language needs, is missing.
    """
    from voxtral_jax.evaluation.transcripts import compare

    heard = _made("whisper").transcribe(samples, language) if len(samples) else ""
    return compare(text, heard, language).main.rate


def judge(spoken: Spoken) -> Scores:
    """Errors heard by Whisper, likeness to the reference by Resemblyzer, opinion by DistillMOS.

    Errors are by characters in Mandarin, Japanese and Korean. Without distillmos the opinion is 0.

    Raises:
        ConfigError: the packages of the first two are missing.
    """
    from voxtral_jax.audio import resample
    from voxtral_jax.evaluation.identification import cosine
    from voxtral_jax.evaluation.judges import RATE
    from voxtral_jax.training.judging import Scores

    samples, reference = (
        resample(x, spoken.sample_rate, RATE).clip(-1, 1)
        for x in (spoken.samples, spoken.reference)
    )
    if not len(samples):
        return Scores(word_errors=1.0, similarity=0.0, naturalness=0.0)
    voices = [_made("speaker").embed(x) for x in (samples, reference)]
    try:
        naturalness = _made("distillmos").predict(samples)
    except ConfigError:
        naturalness = 0.0
    return Scores(
        word_errors=misheard(samples, spoken.text, spoken.language),
        similarity=0.0 if None in voices else cosine(*voices),
        naturalness=naturalness,
    )


@cache
def _made(name: str) -> Any:
    """A judge, made when it is first needed."""
    from voxtral_jax.evaluation.judges import make_judge

    return make_judge(name)
