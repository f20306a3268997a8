"""A model read from a directory in the released layout, and its voices and recording."""

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

from .layers import Weights


@dataclass(frozen=True)
class Model:
    """Sizes, weights and tokenizer; everything else is a function of these."""

    params: dict
    weights: Weights
    tekken: Path

    @property
    def codec(self) -> dict:
        """The sizes of the codec."""
        return self.params["multimodal"]["audio_tokenizer_args"]

    @property
    def codebooks(self) -> int:
        """Codes of a frame."""
        return 1 + self.params["multimodal"]["audio_model_args"]["n_acoustic_codebook"]


def load(directory: Path, dtype: type = np.float32) -> Model:
    """Read a model; `dtype` is the one everything is computed in."""
    params = json.loads((directory / "params.json").read_text(encoding="utf-8"))
    stored = load_file(directory / "consolidated.safetensors")
    weights = {name: value.astype(dtype) for name, value in stored.items()}
    return Model(params, weights, directory / "tekken.json")


def rebuild(
    storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: object
) -> np.ndarray:
    """Stands in for torch's function of that purpose; the strides must be the usual ones."""
    count = int(np.prod(shape))
    if strides != (shape[1], 1):
        raise ValueError("only a contiguous matrix is expected in a voice file")
    return storage[offset : offset + count].reshape(shape)


class VoiceReader(pickle.Unpickler):
    """Reads the pickle of a voice, without torch."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        super().__init__(archive.open(f"{root}/data.pkl"))

    def find_class(self, module: str, name: str) -> object:
        """The three names that such a pickle holds."""
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): rebuild,
            ("torch", "BFloat16Storage"): ml_dtypes.bfloat16,
            ("collections", "OrderedDict"): OrderedDict,
        }
        return known[module, name]

    def persistent_load(self, reference: tuple) -> np.ndarray:
        """The values of one storage."""
        _, dtype, key, _, _ = reference
        return np.frombuffer(self.archive.read(f"{self.root}/data/{key}"), dtype)


def load_voice(path: Path) -> np.ndarray:
    """A preset voice: [N, D], bfloat16."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        return VoiceReader(archive, root).load()


def load_wave(path: Path) -> tuple[np.ndarray, int]:
    """Samples [S] and rate of a mono float32 WAV file."""
    data, place, rate = path.read_bytes(), 12, 0
    while place + 8 <= len(data):
        kind, size = struct.unpack("<4sI", data[place : place + 8])
        if kind == b"fmt ":
            form, channels, rate, _, _, bits = struct.unpack(
                "<HHIIHH", data[place + 8 : place + 24]
            )
            if (form, channels, bits) != (3, 1, 32):
                raise ValueError(f"{path} is not mono float32")
        if kind == b"data":
            return np.frombuffer(data[place + 8 : place + 8 + size], "<f4"), rate
        place += 8 + size + size % 2
    raise ValueError(f"{path} holds no samples")
