"""A start for the codec's outer convolutions: windowed sinusoids, as a filterbank has them.

Random filters of raw samples must first learn what a frequency is, which takes a codec on a CPU
most of its run. These are weights like any others from the first step on; the architecture is what
it was. Nothing of this is published.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from voxtral_jax.config import CodecConfig
from voxtral_jax.parameters import Params

SPACING = ((2_000, 50, 4), (4_000, 100, 2), (8_000, 200, 2), (11_750, 250, 2))
"""Up to which frequency, in steps of how many Hz, with windows of how many patches. Multiples of
50 Hz return to their phase or its opposite after each patch of 10 ms."""
DIRECTION = "parametrizations.weight.original1"


def frequencies(config: CodecConfig) -> Float[np.ndarray, "bands 2"]:
    """Frequency in Hz and window in patches of each band; two channels (cosine, sine) a band.

    Where the codec has fewer channels than twice the bands, some are left out evenly.
    """
    bands, last = [], 0
    for highest, step, patches in SPACING:
        bands += [(float(f), float(patches)) for f in range(last + step, highest + 1, step)]
        last = highest
    chosen = np.linspace(0, len(bands) - 1, min(len(bands), config.dim // 2)).round().astype(int)
    return np.array(bands)[chosen]


def sinusoids(config: CodecConfig) -> Float[np.ndarray, "channels samples"]:
    """Filters over the samples that a convolution of `patch_proj_kernel_size` patches sees.

    Each fills the last patches of them; channels beyond twice the bands are zero.
    """
    patch = config.pretransform_patch_size
    samples = patch * config.patch_proj_kernel_size
    found = np.zeros((config.dim, samples), np.float32)
    for band, (frequency, patches) in enumerate(frequencies(config)):
        size = min(samples, int(patches) * patch)
        turn = 2 * np.pi * frequency * np.arange(size) / config.sampling_rate
        window = np.hanning(size + 1)[:-1]
        found[2 * band, samples - size :] = window * np.cos(turn)
        found[2 * band + 1, samples - size :] = window * np.sin(turn)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


def with_filterbank(config: CodecConfig, codec: Params) -> Params:
    """The codec's weights with sinusoids in the place of random filters at both ends.

    Analysis looks back over its window; synthesis lets it sound from the current patch on. Random
    filters, a tenth as loud, stay under them.
    """
    patch, kernel = config.pretransform_patch_size, config.patch_proj_kernel_size
    filters = sinusoids(config).reshape(config.dim, kernel, patch)
    # The kernel's last tap is the current patch: a window's first patch in synthesis.
    sounding = np.zeros_like(filters)
    for channel, rows in enumerate(filters):
        silent = kernel - sum(bool(row.any()) for row in rows)
        sounding[channel, silent:] = rows[silent:][::-1]
    analysis, synthesis = filters.transpose(0, 2, 1), sounding.transpose(2, 0, 1)
    return {
        **codec,
        "input_proj": _over(codec["input_proj"], analysis),
        "output_proj": _over(codec["output_proj"], synthesis),
    }


def _over(module: Params, weight: Float[np.ndarray, "first second kernel"]) -> Params:
    conv = dict(module["conv"])
    boxed = conv[DIRECTION]
    old = boxed.unbox() if hasattr(boxed, "unbox") else boxed
    # One tenth of the norm that its rows have stays random.
    size = np.linalg.norm(weight.reshape(len(weight), -1), axis=1)[:, None, None]
    new = weight / np.maximum(size, 1e-6) + 0.1 * old
    conv[DIRECTION] = boxed.replace_boxed(new) if hasattr(boxed, "replace_boxed") else new
    return {**module, "conv": conv}
