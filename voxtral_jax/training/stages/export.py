"""`train.py export`: runs to a model of the released layout, which `infer.py` loads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from voxtral_jax.adapter import is_adapter, merge_adapters, save_adapters
from voxtral_jax.checkpoint.download import find_model
from voxtral_jax.checkpoint.export import TOKENIZER_FILE
from voxtral_jax.checkpoint.weights import WEIGHTS_FILE, save_params
from voxtral_jax.codec import decoder_names
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import ConfigError
from voxtral_jax.files import replacing
from voxtral_jax.parameters import unflatten
from voxtral_jax.presets import Preset, make_presets, read_presets, voices_with_codes
from voxtral_jax.training.checkpoints import read_run
from voxtral_jax.training.settings import Dtype
from voxtral_jax.training.sources import is_run, source_config, source_weights
from voxtral_jax.training.speaking import PARTS
from voxtral_jax.training.state import Path
from voxtral_jax.voice import voice_files

ADAPTER_FILE = "adapter.safetensors"
MAY_DIFFER = {"decoder_transformer_lengths_str", "voice"}
"""Fields of codecs whose parts fit each other."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """`export.toml`.

    Attributes:
        speech: run (of `speech` or `dpo`) or model with decoder and flow.
        mean_with: run or model, of which `speech` began or that began as `speech` did: what is
            written is the mean of both, often better than either (arXiv:2203.05482).
        codec: run or model with the codec; its decoder may have more layers than that of `speech`.
        decoder: run or model whose codec's decoder goes in the place of that of `codec`, where both
            began as the same and kept its codes (`part` of `train.py codec`).
        decoder_mean_with: run or model with one more decoder; the mean of both is written.
        out: directory to write.
        tokenizer: directory with `tekken.json`, for models that need one.
        dtype: of the weights in the file; the released layout has bfloat16.
        adapter_only: write just the adapters of a LoRA run, as `adapter.safetensors`.
        voices: recordings that become preset voices, by name.
        presets: folder of recordings with what is known of them, from `scripts/corpus/presets.py`;
            they become preset voices as well.
        presets_of: model with the same codes, whose preset voices are kept: their codes, embedded
            by the weights that are written.
    """

    speech: str
    mean_with: str | None = None
    codec: str | None = None
    decoder: str | None = None
    decoder_mean_with: str | None = None
    out: str
    tokenizer: str | None = None
    dtype: Dtype = "bfloat16"
    adapter_only: bool = False
    voices: Mapping[str, str] = field(default_factory=dict)
    presets: str | None = None
    presets_of: str | None = None


def export(settings: ExportSettings) -> list[str]:
    """Writes the model.

    Returns:
        What to tell.

    Raises:
        ConfigError, CheckpointError: something that it names is missing or does not fit.
    """
    config = source_config(settings.speech)
    base = read_run(FilePath(settings.speech)).get("start") if is_run(settings.speech) else None
    speech = dict(source_weights(settings.speech, config, PARTS))
    adapters = {path: leaf for path, leaf in speech.items() if is_adapter(path)}
    if adapters and settings.mean_with is not None:
        raise ConfigError("mean_with is for runs of all weights, not for adapters")
    if settings.decoder_mean_with is not None and settings.decoder is None:
        raise ConfigError("decoder_mean_with needs decoder, the other one of the two")
    out = FilePath(settings.out)
    if settings.adapter_only:
        if not adapters:
            raise ConfigError(f"{settings.speech} is no LoRA run: there are no adapters to export")
        out.mkdir(parents=True, exist_ok=True)
        save_adapters(out / ADAPTER_FILE, unflatten(adapters))
        return [f"{out / ADAPTER_FILE} adapts {base}"]
    presets = [] if settings.presets is None else read_presets(FilePath(settings.presets))
    presets += [Preset(name, FilePath(file)) for name, file in settings.voices.items()]
    missing = [str(preset.audio) for preset in presets if not preset.audio.is_file()]
    if missing:
        raise ConfigError(f"recordings of preset voices do not exist: {', '.join(missing)}")
    if settings.codec is None:
        raise ConfigError("export needs codec, the run or model whose codec goes with the speech")
    if adapters:
        speech = dict(source_weights(str(base), config, PARTS)) | adapters
    if settings.mean_with is not None:
        speech = mean_of(speech, dict(source_weights(settings.mean_with, config, PARTS)))
    config = with_codec(config, settings.codec, settings.decoder or settings.codec)
    kept = settings.presets_of
    voices = [] if kept is None else voices_with_codes(find_model(kept), config.codec)
    codec = codec_of(settings.codec, settings.decoder, settings.decoder_mean_with, config)
    params = merge_adapters(unflatten(speech | codec))
    (out / "voice_embedding").mkdir(parents=True, exist_ok=True)
    config.save(out / "params.json")
    if config.tokenizer == "tekken":
        source = settings.tokenizer or base
        if source is None:
            raise ConfigError("this model needs a tekken.json: name its directory as tokenizer")
        with replacing(out / TOKENIZER_FILE) as temporary:
            shutil.copyfile(find_model(source) / TOKENIZER_FILE, temporary)
    fitting = set()
    if adapters and base is not None and not is_run(base):
        # Adapters leave the embeddings alone, so the presets of the model still fit.
        for file in voice_files(find_model(base)).values():
            with replacing(out / "voice_embedding" / file.name) as temporary:
                shutil.copyfile(file, temporary)
            fitting.add(file.name)
    for file in voice_files(out).values():
        if file.name not in fitting:
            file.unlink()  # made by the weights that are replaced here
    save_params(out / WEIGHTS_FILE, config, params, jnp.dtype(settings.dtype))
    make_presets(out, presets, voices)
    names = dict.fromkeys([voice.name for voice in voices] + [preset.name for preset in presets])
    notes = [f"preset voices: {', '.join(names)}"] if names else []
    return [f"{out} is complete: python infer.py --model {out} --text ...", *notes]


def with_codec(config: VoxtralConfig, source: str, decoder: str) -> VoxtralConfig:
    """The model with a codec in the place of its own: as many layers in the encoder as that of one
    run or model has, and all else of another one.

    Raises:
        ConfigError: they do not have the same codes.
    """
    layers = source_config(source).codec.encoder_transformer_lengths_str
    codec = replace(
        source_config(decoder).codec,
        encoder_transformer_lengths_str=layers,
        voice=config.codec.voice,
    )
    multimodal = config.multimodal
    try:
        return replace(config, multimodal=replace(multimodal, audio_tokenizer_args=codec))
    except ConfigError as error:
        raise ConfigError(f"the codec of {decoder} does not fit `speech`: {error}") from None


def codec_of(
    source: str, decoder: str | None, mean_with: str | None, config: VoxtralConfig
) -> dict[Path, Any]:
    """The weights of the codec of a run or model, with the decoder of another one if it is named.

    Args:
        source: with the codec.
        decoder: with the other decoder.
        mean_with: with one more decoder, of which and the other the mean is taken.
        config: of `with_codec`.

    Raises:
        ConfigError: they differ by more than the number of layers in their decoders.
    """
    if decoder is None:
        return dict(source_weights(source, config, ["codec"]))
    own = source_config(source)
    alike = {one.name for one in fields(config.codec)} - MAY_DIFFER
    if any(getattr(own.codec, name) != getattr(config.codec, name) for name in alike):
        raise ConfigError(f"the codec of {decoder} has other sizes than that of {source}")
    names = decoder_names(config.codec)
    kept = source_weights(source, own, ["codec"])

    def played(by: str) -> dict[Path, Any]:
        weights = source_weights(by, config, ["codec"])
        return {path: leaf for path, leaf in weights.items() if path[1] in names}

    new = played(decoder) if mean_with is None else mean_of(played(decoder), played(mean_with))
    return {path: leaf for path, leaf in kept.items() if path[1] not in names} | new


def mean_of(
    some: Mapping[Path, jax.Array | np.ndarray], others: Mapping[Path, jax.Array | np.ndarray]
) -> dict[Path, np.ndarray]:
    """The mean of two sets of weights, in float32.

    Raises:
        ConfigError: one of them has weights that the other lacks.
    """
    if some.keys() != others.keys():
        odd = sorted(".".join(path) for path in some.keys() ^ others.keys())
        raise ConfigError(f"a mean needs the same weights in both; only one has {odd[0]}")
    return {
        path: (np.asarray(leaf, np.float32) + np.asarray(others[path], np.float32)) / 2
        for path, leaf in some.items()
    }
