"""JAX's persistent compilation cache: the second start of a program does not compile."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def enable_compilation_cache(directory: str | os.PathLike[str] | None = None) -> Path:
    """Keeps compiled programs on disk. The command line does this by itself.

    Args:
        directory: defaults to JAX's own setting (`JAX_COMPILATION_CACHE_DIR`), else to
            `voxtral_jax` in the user's cache directory.

    Returns:
        The directory in use.
    """
    if directory is None:
        directory = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if directory is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(home) / "voxtral_jax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Small programs are worth keeping too: there are many, and each costs a second or so.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return Path(directory)
