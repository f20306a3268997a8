"""Reads and writes the weights of the released layout (`consolidated.safetensors`).

A weight goes from the memory-mapped file straight to its place on the devices, shard by shard: the
host never holds more than one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (teaches numpy the bfloat16 that safetensors asks it for)
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from voxtral_jax.codec import encoder_names
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import CheckpointError
from voxtral_jax.files import replacing
from voxtral_jax.flow.model import time_frequencies
from voxtral_jax.nn.linear import SCALE
from voxtral_jax.parameters import (
    PREFIXES,
    Params,
    abstract_params,
    checkpoint_key,
    leaves,
    unflatten,
)
from voxtral_jax.sharding import Rules

WEIGHTS_FILE = "consolidated.safetensors"
TIME_FREQUENCIES = "acoustic_transformer.time_embedding.inv_freq"
"""A buffer that some checkpoints leave out; it is then computed."""
CODEC_DTYPE = jnp.float32
"""The codec always computes in float32: bfloat16's 8 bits are noise at -50 dB in a waveform."""
NAMED_IN_ERRORS = 5


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All tensors of a small safetensors file.

    Raises:
        CheckpointError: it is missing, or no such file.
    """
    with _open(Path(path)) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(names[:NAMED_IN_ERRORS])
    more = len(names) - NAMED_IN_ERRORS
    return f"{shown} and {more} more" if more > 0 else shown


def _sources(files: Sequence[Path]) -> dict[str, tuple[Path, Any]]:
    """Key -> (file, slice) over all files; keys of an encoder file may lack the codec's prefix."""
    sources: dict[str, tuple[Path, Any]] = {}
    for number, path in enumerate(files):
        handle = _open(path)
        for key in handle.keys():  # noqa: SIM118 (the handle is no mapping)
            prefix = PREFIXES["codec"]
            bare = number > 0 and not key.startswith(prefix)
            sources[prefix + key if bare else key] = (path, handle.get_slice(key))
    return sources


def load_params(
    config: VoxtralConfig,
    files: Sequence[Path],
    *,
    dtype: jnp.dtype,
    rules: Rules | None = None,
) -> Params:
    """Loads weights onto the devices.

    Args:
        config: says which keys and shapes there must be.
        files: safetensors files; a second one supplies the codec's encoder.
        dtype: of the decoder and the flow; the codec is float32.
        rules: where each weight lies on a mesh; the default device without.

    Returns:
        The tree of `voxtral_jax.parameters`, without the codec's encoder if no file has it.

    Raises:
        CheckpointError: a file is unreadable, or keys or shapes do not fit `config`.
    """
    sources = _sources(files)
    encoder = encoder_names(config.codec)
    expected = dict(leaves(abstract_params(config)))
    has_encoder = any(checkpoint_key(path) in sources for path in expected if path[1] in encoder)
    if not has_encoder:
        expected = {path: leaf for path, leaf in expected.items() if path[1] not in encoder}
    _check_keys(expected, sources, files)

    flat = {}
    for path, leaf in expected.items():
        shape, key = leaf.value.shape, checkpoint_key(path)
        if key == TIME_FREQUENCIES and key not in sources:
            flat[path] = time_frequencies(config.flow.dim)
            continue
        source, view = sources[key]
        kind = CODEC_DTYPE if path[0] == "codec" else dtype
        read = _reader(view, np.dtype(kind), source)
        flat[path] = jax.make_array_from_callback(shape, _place(leaf, rules), read)
    return unflatten(flat)


TEXT_EMBEDDINGS = "mm_audio_embeddings.tok_embeddings.weight"
TEXT_MODEL_NAMES = {"tok_embeddings.weight": TEXT_EMBEDDINGS}
"""Keys that Mistral's text models call otherwise."""


def load_some(
    config: VoxtralConfig, directory: Path, parts: Sequence[str], *, rules: Rules | None = None
) -> dict[tuple[str, ...], jax.Array]:
    """The weights of these parts that a checkpoint has, by path, in its own types.

    For training that starts from one: a released model, or a text model of Mistral's in the same
    key layout (whose other weights are left alone). The flow's time frequencies are constants, and
    are there in any case.

    Args:
        directory: with a `consolidated.safetensors`.
        parts: of "decoder", "flow", "codec".

    Raises:
        CheckpointError: the file has none of them, or a shape does not fit `config`.
    """
    file = directory / WEIGHTS_FILE
    sources = {TEXT_MODEL_NAMES.get(key, key): value for key, value in _sources([file]).items()}
    found: dict[tuple[str, ...], jax.Array] = {}
    wrong = []
    every = dict(leaves(abstract_params(config)))
    for path, leaf in every.items():
        key, shape = checkpoint_key(path), leaf.value.shape
        if path[0] not in parts or key not in sources:
            continue
        source, view = sources[key]
        if tuple(view.get_shape()) != shape:
            wrong.append(f"{key} is {list(view.get_shape())}, params.json makes it {list(shape)}")
            continue
        dtype = view[(slice(0, 1),) * len(shape)].dtype
        read = _reader(view, dtype, source)
        found[path] = jax.make_array_from_callback(shape, _place(leaf, rules), read)
    if wrong:
        raise CheckpointError(f"{file}: {len(wrong)} weights have wrong shapes: {_listed(wrong)}")
    if not found:
        raise CheckpointError(f"{file} has no weight of the {' or '.join(parts)}")
    if TIME_FREQUENCIES not in sources and "flow" in parts:
        path = next(p for p in every if checkpoint_key(p) == TIME_FREQUENCIES)
        found[path] = time_frequencies(config.flow.dim)
    return found


def _place(leaf: Any, rules: Rules | None) -> Sharding:
    if rules is None:
        return SingleDeviceSharding(jax.devices()[0])
    return rules.sharding(leaf.names, leaf.value.shape)


def _reader(view: Any, dtype: np.dtype, source: Path) -> Callable[[Any], np.ndarray]:
    def read(index: tuple[slice, ...]) -> np.ndarray:
        try:
            return np.asarray(view[index]).astype(dtype)
        except SafetensorError as error:
            raise CheckpointError(f"{source} is truncated or corrupt: {error}") from None

    return read


def _check_keys(
    expected: dict[tuple[str, ...], Any],
    sources: dict[str, tuple[Path, Any]],
    files: Sequence[Path],
) -> None:
    names = " + ".join(str(path) for path in files)
    keys = {checkpoint_key(path): leaf for path, leaf in expected.items()}
    if missing := keys.keys() - sources.keys() - {TIME_FREQUENCIES}:
        raise CheckpointError(
            f"{names}: {len(missing)} of {len(keys)} weights are missing: {_listed(missing)}"
        )
    if extra := sources.keys() - keys.keys():
        raise CheckpointError(
            f"{names}: {len(extra)} keys fit no weight of params.json: {_listed(extra)}"
        )
    wrong = []
    for key in keys.keys() & sources.keys():
        found, wanted = list(sources[key][1].get_shape()), list(keys[key].value.shape)
        if found != wanted:
            wrong.append(f"{key} is {found}, params.json makes it {wanted}")
    if wrong:
        raise CheckpointError(f"{names}: {len(wrong)} weights have wrong shapes: {_listed(wrong)}")


def has_encoder(params: Params) -> bool:
    """Whether the codec's encoder is among the weights, so that recordings can be encoded."""
    return "input_proj" in params["codec"]


def check_params(config: VoxtralConfig, params: Params) -> None:
    """Raises CheckpointError unless these weights can be written as a checkpoint of `config`."""
    expected = dict(leaves(abstract_params(config, encoder=has_encoder(params))))
    given = dict(leaves(params))
    if any(key[-1] == SCALE for key in given):
        raise CheckpointError("weights of 8 bits cannot be written: load bfloat16 ones")
    if expected.keys() != given.keys():
        odd = {checkpoint_key(p) for p in expected.keys() ^ given.keys()}
        raise CheckpointError(f"weights do not fit the configuration: {_listed(odd)}")
    for key, leaf in given.items():
        if leaf.shape != expected[key].value.shape:
            raise CheckpointError(f"{checkpoint_key(key)} has shape {leaf.shape}")


def save_params(
    path: str | os.PathLike[str],
    config: VoxtralConfig,
    params: Params,
    dtype: jnp.dtype = jnp.bfloat16,
) -> None:
    """Writes weights (as `load_params` returns them), replacing the file in one step.

    Args:
        dtype: in the file; the released layout has bfloat16.

    Raises:
        CheckpointError: the tree does not fit `config`.
    """
    check_params(config, params)
    tensors = {checkpoint_key(key): np.asarray(leaf.astype(dtype)) for key, leaf in leaves(params)}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from None
