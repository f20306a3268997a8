"""Configurations: the shipped ones, round trips, and mistakes."""

import copy
import json
from pathlib import Path

import pytest

from voxtral_jax import VoxtralConfig, VoxtralError
from voxtral_jax.parameters import abstract_params, checkpoint_key, count, leaves

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = [CONFIGS / "nano", CONFIGS / "voxtral-4b", Path(__file__).parent / "data" / "reference"]


@pytest.mark.parametrize("directory", SHIPPED, ids=lambda path: path.name)
def test_a_configuration_is_written_as_it_was_read(directory: Path, tmp_path: Path) -> None:
    config = VoxtralConfig.load(directory)
    config.save(tmp_path / "params.json")
    assert VoxtralConfig.load(tmp_path) == config
    written = json.loads((tmp_path / "params.json").read_text())
    read = json.loads((directory / "params.json").read_text())

    def contains(ours: dict, theirs: dict) -> bool:
        return all(
            contains(ours[k], v) if isinstance(v, dict) else ours[k] == v for k, v in theirs.items()
        )

    assert contains(written, read)
    assert hash(config) == hash(VoxtralConfig.load(directory))


def test_the_released_sizes_are_as_published() -> None:
    config = VoxtralConfig.load(CONFIGS / "voxtral-4b")
    sizes = {part: count(tree) for part, tree in abstract_params(config).items()}
    assert sizes["decoder"] == pytest.approx(3.4e9, rel=0.02)
    assert sizes["flow"] == pytest.approx(390e6, rel=0.02)
    assert sizes["codec"] == pytest.approx(300e6, rel=0.02)
    assert config.codec.frame_rate == 12.5
    assert config.codec.frame_samples == 1920
    assert config.audio.n_codebooks == 37
    assert [stage.window for stage in config.codec.encoder_stages] == [16, 8, 4, 2]
    assert [stage.window for stage in config.codec.decoder_stages] == [2, 4, 8, 16]
    assert len(config.codec.voice) == 20
    shapes = {
        checkpoint_key(path): leaf.value.shape for path, leaf in leaves(abstract_params(config))
    }
    assert shapes["layers.25.feed_forward.w2.weight"] == (3072, 9216)
    assert shapes["mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight"] == (9088, 3072)
    assert shapes["acoustic_transformer.semantic_codebook_output.weight"] == (8320, 3072)


def test_the_small_model_is_small_and_of_the_same_architecture() -> None:
    nano = VoxtralConfig.load(CONFIGS / "nano")
    params = abstract_params(nano)
    assert 15e6 <= count(params) <= 25e6
    assert count(params["codec"]) == pytest.approx(11.5e6, rel=0.1)
    released = VoxtralConfig.load(CONFIGS / "voxtral-4b")
    assert nano.codec.frame_rate == released.codec.frame_rate
    assert nano.audio.n_codebooks == released.audio.n_codebooks
    assert nano.tokenizer == "phonemes"


CODEC = ("multimodal", "audio_tokenizer_args")
AUDIO = ("multimodal", "audio_model_args")
FLOW = (*AUDIO, "acoustic_transformer_args")
MISTAKES = [
    ((), "dim", "64", r"params.json: dim: expected int, got '64'"),
    ((), "n_kv_heads", 3, r"n_heads \(4\) must be a multiple of n_kv_heads \(3\)"),
    ((), "use_biases", True, r"use_biases: only false"),
    ((), "tokenizer", "words", r"tokenizer: expected 'tekken', 'bytes' or 'phonemes'"),
    ((), "head_dim", 15, r"head_dim must be even"),
    ((), "dim", -64, r"0 or more"),
    (CODEC, "encoder_convs_strides_str", "2,x", r"encoder_convs_strides_str: expected integers"),
    (CODEC, "encoder_convs_strides_str", "2,2", r"encoder's lists have different lengths"),
    (CODEC, "decoder_convs_strides_str", "1,2,2,1", r"divides the rate by 8"),
    (CODEC, "attn_sliding_window_size", 4, r"attn_sliding_window_size is too small"),
    (CODEC, "channels", 2, r"only mono"),
    (CODEC, "acoustic_dim", 35, r"audio_model_args says 36, audio_tokenizer_args says 35"),
    (AUDIO, "n_acoustic_codebook", 5, r"num_codebooks \(37\) must be 1 \+ n_acoustic_codebook"),
    (FLOW, "input_dim", 32, r"input_dim \(32\) must be the decoder's dim \(64\)"),
    (FLOW, "n_decoding_steps", 0, r"n_decoding_steps must be > 0"),
]


@pytest.mark.parametrize(("place", "field", "value", "message"), MISTAKES)
def test_mistakes_are_named(reference: Path, place, field: str, value, message: str) -> None:
    data = json.loads((reference / "params.json").read_text())
    VoxtralConfig.from_dict(copy.deepcopy(data))
    branch = data
    for name in place:
        branch = branch[name]
    branch[field] = value
    with pytest.raises(VoxtralError, match=message):
        VoxtralConfig.from_dict(data)


def test_a_missing_field_is_named_with_its_place(reference: Path) -> None:
    data = json.loads((reference / "params.json").read_text())
    del data["multimodal"]["audio_tokenizer_args"]["semantic_dim"]
    with pytest.raises(VoxtralError, match=r"multimodal.audio_tokenizer_args.semantic_dim is miss"):
        VoxtralConfig.from_dict(data)
