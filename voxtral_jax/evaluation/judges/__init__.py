"""Judges: each hears a clip and says something about it. All are optional packages.

A judge is a class with `wants(clip)` and `hear(sound)`; what it says are the values of a line of
`scores.jsonl`. Its packages are imported when it is made.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float
from numpy import ndarray

from voxtral_jax.audio import resample
from voxtral_jax.errors import ConfigError
from voxtral_jax.evaluation.takes import Clip

RATE = 16_000
"""Sample rate of all judges that were trained, in Hz."""


@dataclass(frozen=True, eq=False)
class Sound:
    """A clip, as judges hear it.

    Attributes:
        samples: `[S]` float32.
        rate: in Hz.
        original: `[S]`, the recording that a resynthesis should equal, at the same rate.
    """

    clip: Clip
    samples: Float[ndarray, " S"]
    rate: int
    original: Float[ndarray, " S"] | None = None

    def at_16k(self) -> Float[ndarray, " R"]:
        """The samples at 16 kHz, within [-1, 1]."""
        return resample(self.samples, self.rate, RATE).clip(-1, 1)


class Judge(Protocol):
    """Says something about clips."""

    def wants(self, clip: Clip) -> bool:
        """Whether it can say anything about a clip."""

    def hear(self, sound: Sound) -> dict[str, Any]:
        """Its values, fit for JSON."""


@dataclass(frozen=True)
class Offer:
    """A judge that can be had.

    Attributes:
        place: `module:class`, below this package.
        says: what it measures.
        install: the command that installs it.
    """

    place: str
    says: str
    install: str


EXTRA = "pip install 'voxtral-jax[evaluation]'"
JUDGES = {
    "whisper": Offer("recognition:Whisper", "words, by Whisper base", EXTRA),
    "pocketsphinx": Offer("recognition:PocketSphinx", "English words, without Whisper", EXTRA),
    "speaker": Offer(
        "speaker:Speaker",
        "voices, by Resemblyzer",
        f"{EXTRA}; pip install --no-deps Resemblyzer==0.1.4",
    ),
    "distillmos": Offer(
        "naturalness:DistillMos",
        "predicted opinion (MOS)",
        f"{EXTRA}; pip install --no-deps distillmos==0.9.1 xls-r-sqa==0.1.0",
    ),
    "dnsmos": Offer(
        "naturalness:DnsMos",
        "predicted opinion of noise and speech",
        f"{EXTRA}; pip install --no-deps speechmos==0.0.1.1",
    ),
    "distance": Offer("distance:Distance", "mel and STFT distances of the codec", EXTRA),
    "pesq": Offer("distance:Pesq", "wideband PESQ of the codec", EXTRA),
    "estoi": Offer("distance:Estoi", "extended STOI of the codec", EXTRA),
}
"""Judges by name."""


def make_judge(name: str, threads: int = 1) -> Judge:
    """Makes a judge.

    Args:
        name: one of `JUDGES`.
        threads: CPU threads that it may use.

    Raises:
        ConfigError: there is none of that name, or its packages are missing.
    """
    if name not in JUDGES:
        raise ConfigError(f"unknown judge {name!r}; choose from {', '.join(JUDGES)}")
    offer = JUDGES[name]
    module, _, attribute = offer.place.partition(":")
    try:
        found = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        judge: Judge = found(threads)
    except ImportError as error:
        raise ConfigError(f"the judge {name} needs a package: {error}; {offer.install}") from error
    return judge
