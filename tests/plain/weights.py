"""Every weight of the checkpoint, declared by name and shape, and drawn at random.

The spreads are those of the `tiny` reference: activations stay near one, codes vary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from . import codec, flow, language
from .layers import Weights

GAIN = 1.6
"""A matrix has a spread of this over the square root of its inputs."""


@dataclass(frozen=True)
class Weight:
    """Name, shape and distribution of one array."""

    name: str
    shape: tuple[int, ...]
    kind: str = "matrix"
    """What `draw_one` tells apart."""


def transformer_weights(prefix: str, args: dict, width: int) -> Iterator[Weight]:
    """The layers of any of the three transformers, without a final norm."""
    queries = args["n_heads"] * args["head_dim"]
    keys = args["n_kv_heads"] * args["head_dim"]
    last = "branch" if args.get("layer_scale") is False else "matrix"
    yield Weight(f"{prefix}.attention.wq.weight", (queries, width))
    yield Weight(f"{prefix}.attention.wk.weight", (keys, width))
    yield Weight(f"{prefix}.attention.wv.weight", (keys, width))
    yield Weight(f"{prefix}.attention.wo.weight", (width, queries), last)
    yield Weight(f"{prefix}.attention_norm.weight", (width,), "norm")
    yield Weight(f"{prefix}.ffn_norm.weight", (width,), "norm")
    yield Weight(f"{prefix}.feed_forward.w1.weight", (args["hidden_dim"], width))
    yield Weight(f"{prefix}.feed_forward.w2.weight", (width, args["hidden_dim"]), last)
    yield Weight(f"{prefix}.feed_forward.w3.weight", (args["hidden_dim"], width))
    if args.get("qk_norm"):
        yield Weight(f"{prefix}.attention.q_norm.weight", (queries,), "norm")
        yield Weight(f"{prefix}.attention.k_norm.weight", (keys,), "norm")
    if args.get("layer_scale"):
        yield Weight(f"{prefix}.attention_scale", (width,), "scale")
        yield Weight(f"{prefix}.ffn_scale", (width,), "scale")


def conv_weights(args: dict, name: str, shape: tuple[int, int, int]) -> Iterator[Weight]:
    """One convolution, its axes [out, in, kernel] or, transposed, [in, out, kernel]."""
    if args["conv_weight_norm"]:
        name = f"{name}.conv.parametrizations.weight"
        yield Weight(f"{name}.original0", (shape[0], 1, 1), "magnitude")
        yield Weight(f"{name}.original1", shape)
    else:
        yield Weight(f"{name}.conv.weight", shape, "filter")


def codec_weights(args: dict) -> Iterator[Weight]:
    """Encoder, quantiser and decoder."""
    root, size = "audio_tokenizer", args["pretransform_patch_size"]
    kernel = args["patch_proj_kernel_size"]
    yield from conv_weights(args, f"{root}.input_proj", (args["dim"], size, kernel))
    sides = zip(("encoder_blocks", "decoder_blocks"), codec.blocks(args), strict=True)
    for side, stack in sides:
        for index, block in enumerate(stack):
            name = f"{root}.{side}.{index}"
            if block.kind == "transformer":
                for layer in range(block.layers):
                    yield from transformer_weights(f"{name}.layers.{layer}", args, args["dim"])
            else:
                channels = (block.outputs, block.inputs)
                if block.kind == "transposed":
                    channels = (block.inputs, block.outputs)
                yield from conv_weights(args, name, (*channels, block.kernel))
    yield from conv_weights(args, f"{root}.output_proj", (size, args["dim"], kernel))
    name = f"{root}.quantizer.semantic_codebook"
    entries = args["semantic_codebook_size"]
    yield Weight(f"{name}.cluster_usage", (entries,), "usage")
    yield Weight(f"{name}.embedding_sum", (entries, args["semantic_dim"]), "sum")


def flow_weights(params: dict) -> Iterator[Weight]:
    """The acoustic transformer and the semantic head."""
    args, root, hidden = flow.flow_args(params), "acoustic_transformer", params["dim"]
    acoustic = params["multimodal"]["audio_model_args"]["n_acoustic_codebook"]
    width = args["dim"]
    for layer in range(args["n_layers"]):
        yield from transformer_weights(f"{root}.layers.{layer}", args, width)
    yield Weight(f"{root}.norm.weight", (width,), "norm")
    yield Weight(f"{root}.input_projection.weight", (width, acoustic))
    yield Weight(f"{root}.time_projection.weight", (width, width))
    yield Weight(f"{root}.llm_projection.weight", (width, hidden))
    yield Weight(f"{root}.acoustic_codebook_output.weight", (acoustic, width), "velocity")
    rows = language.padded(language.codebook_sizes(params)[0])
    yield Weight(f"{root}.semantic_codebook_output.weight", (rows, hidden))
    yield Weight(f"{root}.time_embedding.inv_freq", (width // 2,), "freq")


def declare(params: dict) -> list[Weight]:
    """Every weight of the checkpoint."""
    width = params["dim"]
    layers = [
        weight
        for layer in range(params["n_layers"])
        for weight in transformer_weights(f"layers.{layer}", params, width)
    ]
    rows = language.padded(sum(language.codebook_sizes(params)))
    root = "mm_audio_embeddings"
    return [
        *layers,
        Weight("norm.weight", (width,), "norm"),
        Weight(f"{root}.tok_embeddings.weight", (params["vocab_size"], width), "embedding"),
        Weight(f"{root}.audio_codebook_embeddings.embeddings.weight", (rows, width), "embedding"),
        *flow_weights(params),
        *codec_weights(params["multimodal"]["audio_tokenizer_args"]),
    ]


def draw_one(weight: Weight, random: np.random.Generator) -> np.ndarray:
    """One array, in float64."""
    if weight.kind == "freq":
        return flow.frequencies(weight.shape[0])
    if weight.kind == "magnitude":
        return random.uniform(0.7, 1.0, weight.shape)
    if weight.kind == "usage":
        return random.uniform(0.5, 9.5, weight.shape)
    normal = random.normal(size=weight.shape)
    if weight.kind == "norm":
        return 1 + 0.1 * normal
    inputs = int(np.prod(weight.shape[1:]))
    spread = {
        "matrix": GAIN / np.sqrt(inputs),
        "velocity": GAIN / np.sqrt(inputs) / 3,
        # What a layer scale or a weight norm would otherwise keep small.
        "branch": GAIN / np.sqrt(inputs) * 0.3,
        "filter": 0.85 / np.sqrt(inputs),
        "scale": 0.3,
        "embedding": 0.5,
        "sum": 1.0,
    }
    return spread[weight.kind] * normal


def draw(params: dict, random: np.random.Generator) -> Weights:
    """A whole random checkpoint, bfloat16."""
    values = {weight.name: draw_one(weight, random) for weight in declare(params)}
    name = "audio_tokenizer.quantizer.semantic_codebook"
    values[f"{name}.embedding_sum"] *= values[f"{name}.cluster_usage"][:, None]
    return {name: value.astype(ml_dtypes.bfloat16) for name, value in values.items()}


def require_consistent(params: dict) -> None:
    """Raise ValueError, naming the fields, where two places of a params.json disagree."""
    audio = params["multimodal"]["audio_model_args"]
    args, coding = params["multimodal"]["audio_tokenizer_args"], audio["audio_encoding_args"]
    flow_sizes = audio["acoustic_transformer_args"]
    down = int(np.prod(codec.numbers(args["encoder_convs_strides_str"])))
    up = codec.numbers(args["decoder_convs_strides_str"])
    rate = args["sampling_rate"] / args["pretransform_patch_size"] / down
    claims = {
        "num_codebooks is n_acoustic_codebook + 1": coding["num_codebooks"]
        == audio["n_acoustic_codebook"] + 1,
        "frame_rate is sampling_rate / patch size / strides": coding["frame_rate"] == rate,
        "both sampling_rate agree": coding["sampling_rate"] == args["sampling_rate"],
        "acoustic_dim is n_acoustic_codebook": args["acoustic_dim"] == audio["n_acoustic_codebook"],
        "both semantic_codebook_size agree": audio["semantic_codebook_size"]
        == args["semantic_codebook_size"],
        "both acoustic_codebook_size agree": audio["acoustic_codebook_size"]
        == args["acoustic_codebook_size"],
        "the acoustic transformer's input_dim is dim": flow_sizes["input_dim"] == params["dim"],
        "the acoustic transformer's dim is even": flow_sizes["dim"] % 2 == 0,
        "the codec goes up as far as down": up[0] == 1 and int(np.prod(up)) == down,
        "use_biases is false": not (
            params["use_biases"] or flow_sizes["use_biases"] or args["use_biases"]
        ),
        "tied_embeddings is true": params["tied_embeddings"],
        "key/value heads divide the heads": not any(
            part["n_heads"] % part["n_kv_heads"] for part in (params, flow_sizes, args)
        ),
        "a voice is named neutral_female": "neutral_female" in args["voice"],
    }
    broken = [claim for claim, holds in claims.items() if not holds]
    if broken:
        raise ValueError(f"params.json breaks: {'; '.join(broken)}")
