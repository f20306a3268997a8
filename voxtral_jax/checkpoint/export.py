"""Writes a model in the released layout, so that any implementation of it can load it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from voxtral_jax.checkpoint.weights import WEIGHTS_FILE, check_params, save_params
from voxtral_jax.errors import CheckpointError
from voxtral_jax.files import replacing

if TYPE_CHECKING:
    from voxtral_jax.model import Model

TOKENIZER_FILE = "tekken.json"


def save_model(model: Model, directory: str | os.PathLike[str]) -> None:
    """Writes `params.json`, `consolidated.safetensors` (bfloat16), tokenizer and voices.

    Each file is replaced in one step, the weights last: a directory with weights is complete.

    Raises:
        CheckpointError: the directory cannot be written, or is the one the model came from, or the
            weights are of 8 bits.
    """
    directory, source = Path(directory), Path(model.source)
    if directory.resolve() == source.resolve():
        raise CheckpointError(f"{directory} is where the model was loaded from; choose another")
    check_params(model.config, model.params)
    try:
        (directory / "voice_embedding").mkdir(parents=True, exist_ok=True)
        model.config.save(directory / "params.json")
        if model.config.tokenizer == "tekken":
            _copy(source / TOKENIZER_FILE, directory / TOKENIZER_FILE)
        for file in model.voices.values():
            _copy(file, directory / "voice_embedding" / file.name)
        save_params(directory / WEIGHTS_FILE, model.config, model.params)
    except OSError as error:
        raise CheckpointError(f"cannot write the model to {directory}: {error}") from None


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
