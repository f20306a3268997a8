"""The codec: waveform -> latents -> codes -> latents -> waveform, one recording at a time."""

from dataclasses import dataclass

import numpy as np

from .layers import Weights, alibi_bias, attend, feed_forward, linear, rms_norm


@dataclass(frozen=True)
class Block:
    """One entry of `encoder_blocks` or `decoder_blocks`, numbered by its place in the list."""

    kind: str
    """"transformer", "conv" or "transposed"."""
    layers: int = 0
    window: int = 0
    inputs: int = 0
    outputs: int = 0
    kernel: int = 0
    stride: int = 1


def numbers(text: str) -> list[int]:
    """The integers of a list like "4,4,4,3"."""
    return [int(part) for part in text.split(",")]


def latent_size(args: dict) -> int:
    """Channels of a latent: semantic, then acoustic."""
    return args["semantic_dim"] + args["acoustic_dim"]


def blocks(args: dict) -> tuple[list[Block], list[Block]]:
    """The blocks of encoder and decoder; the window goes on from one to the other."""
    window, latent, width = args["attn_sliding_window_size"], latent_size(args), args["dim"]
    halves = args["half_attn_window_upon_downsampling"]
    encoder, decoder = [], []
    lengths = numbers(args["encoder_transformer_lengths_str"])
    kernels = numbers(args["encoder_convs_kernels_str"])
    strides = numbers(args["encoder_convs_strides_str"])
    for stage, (layers, kernel, stride) in enumerate(zip(lengths, kernels, strides, strict=True)):
        encoder.append(Block("transformer", layers=layers, window=window))
        last = stage == len(lengths) - 1
        if last or (kernel, stride) != (1, 1):
            outputs = latent if last else width
            encoder.append(
                Block("conv", inputs=width, outputs=outputs, kernel=kernel, stride=stride)
            )
        if halves and stride > 1:
            window //= 2
    lengths = numbers(args["decoder_transformer_lengths_str"])
    kernels = numbers(args["decoder_convs_kernels_str"])
    strides = numbers(args["decoder_convs_strides_str"])
    for stage, (layers, kernel, stride) in enumerate(zip(lengths, kernels, strides, strict=True)):
        if stage == 0:
            decoder.append(
                Block("conv", inputs=latent, outputs=width, kernel=kernel, stride=stride)
            )
        elif (kernel, stride) != (1, 1):
            decoder.append(
                Block("transposed", inputs=width, outputs=width, kernel=kernel, stride=stride)
            )
        if halves and stride > 1:
            window *= 2
        decoder.append(Block("transformer", layers=layers, window=window))
    return encoder, decoder


def conv_weight(w: Weights, name: str) -> np.ndarray:
    """The weight [out, in, kernel] (transposed conv: [in, out, kernel]), weight norm applied."""
    if f"{name}.conv.weight" in w:
        return w[f"{name}.conv.weight"]
    magnitude = w[f"{name}.conv.parametrizations.weight.original0"]
    direction = w[f"{name}.conv.parametrizations.weight.original1"]
    norm = np.sqrt(np.sum(direction * direction, axis=(1, 2), keepdims=True))
    return magnitude * direction / norm


def pad(x: np.ndarray, left: int, right: int, mode: str) -> np.ndarray:
    """Pad `x` [T, C] in time; `mode` is "reflect" or "edge" (torch's replicate)."""
    if mode == "edge":
        return np.concatenate([np.repeat(x[:1], left, 0), x, np.repeat(x[-1:], right, 0)])
    if right:
        raise ValueError("reflect padding is for stride 1, where nothing is added on the right")
    missing = max(0, left + 1 - len(x))
    longer = np.concatenate([x, np.zeros((missing, x.shape[1]), x.dtype)])
    mirrored = longer[1 : left + 1][::-1]
    return np.concatenate([mirrored, x])


def causal_conv(x: np.ndarray, weight: np.ndarray, stride: int, mode: str) -> np.ndarray:
    """x [T, in], weight [out, in, kernel] -> [ceil(T / stride), out]."""
    kernel = weight.shape[2]
    steps = -(-len(x) // stride)
    padded = pad(x, kernel - stride, steps * stride - len(x), mode)
    y = np.zeros((steps, weight.shape[0]), x.dtype)
    for step in range(steps):
        for tap in range(kernel):
            y[step] += weight[:, :, tap] @ padded[step * stride + tap]
    return y


def causal_transposed_conv(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """x [T, in], weight [in, out, kernel] -> [T * stride, out]; the tail is cut off."""
    kernel = weight.shape[2]
    y = np.zeros((len(x) * stride + kernel - stride, weight.shape[1]), x.dtype)
    for step in range(len(x)):
        for tap in range(kernel):
            y[step * stride + tap] += x[step] @ weight[:, :, tap]
    return y[: len(x) * stride]


def codec_attention(
    w: Weights, name: str, args: dict, x: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Attention of one codec layer on the normed x [T, D]; q and k are normed before the split."""
    q = linear(x, w[f"{name}.wq.weight"])
    k = linear(x, w[f"{name}.wk.weight"])
    v = linear(x, w[f"{name}.wv.weight"])
    if args["qk_norm"]:
        q = rms_norm(q, w[f"{name}.q_norm.weight"], args["qk_norm_eps"])
        k = rms_norm(k, w[f"{name}.k_norm.weight"], args["qk_norm_eps"])
    heads, groups, size = args["n_heads"], args["n_kv_heads"], args["head_dim"]
    q = q.reshape(len(x), heads, size)
    k, v = k.reshape(len(x), groups, size), v.reshape(len(x), groups, size)
    return linear(attend(q, k, v, bias), w[f"{name}.wo.weight"])


def codec_transformer(w: Weights, name: str, args: dict, block: Block, x: np.ndarray) -> np.ndarray:
    """The layers of one stage, x [T, D] -> [T, D]."""
    bias = alibi_bias(args["n_heads"], len(x), block.window, x.dtype)
    for index in range(block.layers):
        layer = f"{name}.layers.{index}"
        normed = rms_norm(x, w[f"{layer}.attention_norm.weight"], args["norm_eps"])
        branch = codec_attention(w, f"{layer}.attention", args, normed, bias)
        x = x + (branch * w[f"{layer}.attention_scale"] if args["layer_scale"] else branch)
        normed = rms_norm(x, w[f"{layer}.ffn_norm.weight"], args["norm_eps"])
        branch = feed_forward(w, f"{layer}.feed_forward", normed)
        x = x + (branch * w[f"{layer}.ffn_scale"] if args["layer_scale"] else branch)
    return x


def run_blocks(w: Weights, name: str, args: dict, stack: list[Block], x: np.ndarray) -> np.ndarray:
    """Everything between the projections of one side of the codec."""
    for index, block in enumerate(stack):
        place = f"{name}.{index}"
        if block.kind == "transformer":
            x = codec_transformer(w, place, args, block, x)
        elif block.kind == "conv":
            x = causal_conv(x, conv_weight(w, place), block.stride, "edge")
        else:
            x = causal_transposed_conv(x, conv_weight(w, place), block.stride)
    return x


def encode(w: Weights, args: dict, samples: np.ndarray) -> np.ndarray:
    """Samples [S] -> latents [T, latent], before quantisation."""
    size = args["pretransform_patch_size"]
    count = -(-len(samples) // size)
    patches = np.zeros((count * size,), samples.dtype)
    patches[: len(samples)] = samples
    x = patches.reshape(count, size)
    x = causal_conv(x, conv_weight(w, "audio_tokenizer.input_proj"), 1, "reflect")
    return run_blocks(w, "audio_tokenizer.encoder_blocks", args, blocks(args)[0], x)


def semantic_table(w: Weights) -> np.ndarray:
    """The entries of the semantic codebook [entries, semantic]."""
    name = "audio_tokenizer.quantizer.semantic_codebook"
    usage = np.maximum(w[f"{name}.cluster_usage"], 1e-5)
    return w[f"{name}.embedding_sum"] / usage[:, None]


def semantic_distances(w: Weights, args: dict, latent: np.ndarray) -> np.ndarray:
    """Squared distance of every latent [T, latent] to every entry: [T, entries]."""
    table = semantic_table(w)
    rows = [np.sum((table - row[: args["semantic_dim"]]) ** 2, axis=1) for row in latent]
    return np.stack(rows)


def acoustic_positions(args: dict, latent: np.ndarray) -> np.ndarray:
    """Where the acoustic channels lie between level 0 and the last: [T, acoustic], unrounded."""
    bounded = np.tanh(latent[:, args["semantic_dim"] :])
    return (bounded + 1) / 2 * (args["acoustic_codebook_size"] - 1)


def quantise(w: Weights, args: dict, latent: np.ndarray) -> np.ndarray:
    """Latents [T, latent] -> codes [T, K], without offset."""
    semantic = np.argmin(semantic_distances(w, args, latent), axis=1)
    acoustic = np.round(acoustic_positions(args, latent))
    return np.concatenate([semantic[:, None], acoustic], axis=1).astype(np.int32)


def decode(w: Weights, args: dict, codes: np.ndarray) -> np.ndarray:
    """Codes [T, K], without offset -> samples [S]."""
    semantic = semantic_table(w)[codes[:, 0]]
    acoustic = 2 * codes[:, 1:] / (args["acoustic_codebook_size"] - 1) - 1
    x = np.concatenate([semantic, acoustic.astype(semantic.dtype)], axis=1)
    x = run_blocks(w, "audio_tokenizer.decoder_blocks", args, blocks(args)[1], x)
    x = causal_conv(x, conv_weight(w, "audio_tokenizer.output_proj"), 1, "reflect")
    return x.reshape(-1)
