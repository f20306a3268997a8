"""Every error that voxtral_jax raises on purpose.

All derive from `VoxtralError`, so that a caller can tell a mistake in what it gave us from a bug.
Messages are sentences: what was wrong, what was expected, what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def problems_of(error: ValidationError) -> str:
    """What pydantic found wrong, each problem with its field."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
        for problem in error.errors()
    )


class VoxtralError(Exception):
    """Base of all errors raised on purpose by this library."""


class ConfigError(VoxtralError, ValueError):
    """A `params.json` (or a configuration object) is missing, malformed or contradictory."""


class CheckpointError(VoxtralError, ValueError):
    """A checkpoint is missing, corrupt, or its keys or shapes do not fit the configuration."""


class VoiceError(VoxtralError, ValueError):
    """A voice is unknown, unreadable, or made for a model of another width."""


class AudioError(VoxtralError, ValueError):
    """Reference audio cannot be used, or audio cannot be written in the format asked for."""


class TextError(VoxtralError, ValueError):
    """The text is empty, too long, or cannot be tokenised."""


class RequestError(VoxtralError, ValueError):
    """A synthesis option is out of its range, or options contradict each other."""


class JobError(VoxtralError, ValueError):
    """A list of batch jobs cannot be read, or a directory cannot take its results."""


class DataError(VoxtralError, ValueError):
    """Training data is missing, malformed, or too much of it is broken."""


class TrainingError(VoxtralError, RuntimeError):
    """A training run cannot start, or cannot go on."""


class BusyError(RequestError):
    """Too many requests are waiting.

    Attributes:
        retry_after: seconds after which the queue should have room.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosedError(VoxtralError, RuntimeError):
    """The engine takes no more requests."""


class EngineError(VoxtralError, RuntimeError):
    """The device failed while it was speaking."""
