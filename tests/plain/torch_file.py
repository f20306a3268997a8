"""Voices as torch.save writes them, and mono float32 WAV files, both byte by byte."""

import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np


def integer(value: int) -> bytes:
    """The pickle opcode for a non-negative integer."""
    if value < 1 << 8:
        return b"K" + struct.pack("<B", value)
    if value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    return b"J" + struct.pack("<i", value)


def tensor_pickle(frames: int, width: int) -> bytes:
    """The pickle of a contiguous bfloat16 tensor [frames, width] in storage 0."""

    def text(value: bytes, memo: int) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value + b"q" + bytes([memo])

    return b"".join(
        [
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((",
            text(b"storage", 1),
            b"ctorch\nBFloat16Storage\nq\x02",
            text(b"0", 3),
            text(b"cpu", 4),
            integer(frames * width) + b"tq\x05QK\x00",
            integer(frames) + integer(width) + b"\x86q\x06",
            integer(width) + integer(1) + b"\x86q\x07",
            b"\x89ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b.",
        ]
    )


def write_voice(path: Path, voice: np.ndarray) -> None:
    """Write a voice [N, D]; the values lie at a multiple of 64 bytes, as torch has it."""
    entries = {
        "data.pkl": tensor_pickle(*voice.shape),
        ".format_version": b"1",
        ".storage_alignment": b"64",
        "byteorder": b"little",
        "data/0": voice.astype(ml_dtypes.bfloat16).tobytes(),
        "version": b"3\n",
        ".data/serialization_id": b"0" * 40,
    }
    header = 30
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(f"{path.stem}/{name}")
            start = file.tell() + header + len(info.filename) + 4
            if name == "data/0":
                filler = -start % 64
                info.extra = b"FB" + struct.pack("<H", filler) + b"Z" * filler
            archive.writestr(info, content)


def write_wave(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write samples [S] as mono float32."""
    data = samples.astype("<f4").tobytes()
    form = struct.pack("<HHIIHHH", 3, 1, rate, 4 * rate, 4, 32, 0)
    fact = struct.pack("<I", len(samples))
    chunks = b"".join(
        kind + struct.pack("<I", len(content)) + content
        for kind, content in ((b"fmt ", form), (b"fact", fact), (b"data", data))
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
