"""Finds a model's directory: in the package, a local path, or a repository of the hub."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

from voxtral_jax.errors import CheckpointError

HUB_FILES = ["params.json", "consolidated.safetensors", "tekken.json", "voice_embedding/*"]
OWN_MODEL = "nano"
"""Name of the model that comes with the package, under `assets`."""


def find_own_model() -> Path:
    """The directory of the small model that comes with the package.

    Raises:
        CheckpointError: this copy of the package has none.
    """
    directory = Path(str(files("voxtral_jax") / "assets" / OWN_MODEL))
    missing = [name for name in HUB_FILES[:2] if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"this copy of voxtral_jax comes without its model ({directory} lacks "
            f"{' and '.join(missing)}); name a model: "
            "load_model(PATH), or --model PATH"
        )
    return directory


def find_model(path_or_name: str | os.PathLike[str]) -> Path:
    """The directory of a model.

    Args:
        path_or_name: a directory, or a hub id such as `mistralai/Voxtral-4B-TTS-2603`, which is
            downloaded once into the hub's cache.

    Raises:
        CheckpointError: it is neither, or the hub cannot be reached and nothing is cached.
    """
    path = Path(path_or_name)
    if path.is_dir():
        return path
    name = str(path_or_name)
    if path.exists():
        raise CheckpointError(f"{path} is a file; give the directory that holds params.json")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith((".", "/")):
        raise CheckpointError(
            f"no model at {name!r}: neither a directory nor a hub id (owner/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client raises many kinds; each means "not to be had"
        raise CheckpointError(
            f"{name!r} is no directory here, and the hub did not supply it: {error}"
        ) from error
