"""What every part of a configuration is held to."""

from __future__ import annotations

from voxtral_jax.errors import ConfigError


def check(condition: bool, message: str) -> None:
    """Raises ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_heads(where: str, n_heads: int, n_kv_heads: int) -> None:
    """Raises ConfigError unless query heads can share the key/value heads evenly."""
    check(min(n_heads, n_kv_heads) >= 1, f"{where}: n_heads and n_kv_heads must be 1 or more")
    check(
        n_heads % n_kv_heads == 0,
        f"{where}: n_heads ({n_heads}) must be a multiple of n_kv_heads ({n_kv_heads})",
    )
