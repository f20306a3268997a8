"""Reads a tensor that `torch.save` wrote, without executing its pickle.

The file is a zip that holds a pickle and the raw numbers. The pickle is only disassembled
(`pickletools`): its few known steps are followed on a list of plain values, where the two calls a
saved tensor needs become records instead of calls, and anything else is an error.
"""

from __future__ import annotations

import lzma
import math
import os
import pickletools
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from voxtral_jax.errors import VoiceError

STORAGES = {
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch FloatStorage": np.dtype(np.float32),
    "torch HalfStorage": np.dtype(np.float16),
}
REBUILD = "torch._utils _rebuild_tensor_v2"
ORDERED = "collections OrderedDict"
MOST_BYTES = 256 * 2**20
"""Largest member that is read: a voice is a few megabytes, a zip bomb is not."""
BROKEN = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What reading a damaged zip raises."""
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE")
_MARK = object()


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_tensor(path: str | os.PathLike[str]) -> np.ndarray:
    """The one tensor in a `.pt` file, in its own type.

    Raises:
        VoiceError: the file is no zip of `torch.save`, or holds anything but a plain tensor.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [n for n in archive.namelist() if n.split("/", 1)[-1] == "data.pkl"]
            if len(pickles) != 1:
                raise VoiceError(f"{path} is not a file of torch.save (no data.pkl in the zip)")
            root = pickles[0][: -len("data.pkl")]
            tensor = _describe(_member(archive, pickles[0]), path)
            raw = _member(archive, f"{root}data/{tensor.storage.key}")
            if f"{root}byteorder" in archive.namelist():
                order = _member(archive, f"{root}byteorder")
                if order != b"little":
                    raise VoiceError(f"{path} is stored in {order!r} byte order, expected little")
            return _materialise(tensor, raw, path)
    except FileNotFoundError:
        raise VoiceError(f"{path} does not exist") from None
    except (*BROKEN, KeyError, ValueError, OverflowError, RuntimeError) as error:
        if isinstance(error, VoiceError):
            raise
        raise VoiceError(f"{path} is not a readable file of torch.save: {error}") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MOST_BYTES:
        raise VoiceError(f"{archive.filename}: {name} is larger than a voice can be")
    return archive.read(name)


def _materialise(tensor: _Tensor, raw: bytes, path: Any) -> np.ndarray:
    numbers = np.frombuffer(
        raw, tensor.storage.dtype, count=len(raw) // tensor.storage.dtype.itemsize
    )
    strides = tuple(math.prod(tensor.shape[i + 1 :]) for i in range(len(tensor.shape)))
    size = math.prod(tensor.shape)
    if strides != tensor.strides or min((tensor.offset, *tensor.shape), default=0) < 0:
        raise VoiceError(f"{path}: the tensor is not contiguous; save it with .contiguous()")
    if tensor.offset + size > numbers.size:
        raise VoiceError(f"{path} is truncated: {numbers.size} numbers of {tensor.offset + size}")
    return numbers[tensor.offset : tensor.offset + size].reshape(tensor.shape)


def _describe(pickle: bytes, path: Any) -> _Tensor:
    """Follows the pickle's steps without calling anything."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def to_mark() -> list[Any]:
        items: list[Any] = []
        while (item := stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            name = opcode.name
            if name in _LITERALS:
                stack.append(argument)
            elif name in ("PROTO", "FRAME"):
                pass
            elif name == "GLOBAL":
                stack.append(_known(str(argument), path))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_known(f"{module} {attribute}", path))
            elif name == "MARK":
                stack.append(_MARK)
            elif name == "TUPLE":
                stack.append(tuple(to_mark()))
            elif name == "EMPTY_TUPLE":
                stack.append(())
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                size = int(name[-1])
                items = tuple(stack[-size:])
                del stack[-size:]
                stack.append(items)
            elif name in ("NEWTRUE", "NEWFALSE"):
                stack.append(name == "NEWTRUE")
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "BINPERSID":
                stack.append(_storage(stack.pop(), path))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_record(function, arguments, path))
            elif name == "STOP":
                result = stack.pop()
                if isinstance(result, _Tensor) and not stack:
                    return result
                break
            else:
                raise VoiceError(f"{path} holds more than a tensor (pickle step {name}); refused")
    except (IndexError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, VoiceError):
            raise
        raise VoiceError(f"{path}: malformed pickle") from None
    raise VoiceError(f"{path} holds no plain tensor; save the voice with torch.save(tensor, ...)")


def _known(name: str, path: Any) -> str:
    if name not in (*STORAGES, REBUILD, ORDERED):
        raise VoiceError(
            f"{path} asks for {name.replace(' ', '.')!r}, which no voice needs; refused"
        )
    return name


def _storage(reference: Any, path: Any) -> _Storage:
    if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
        raise VoiceError(f"{path}: malformed reference to its numbers")
    _, kind, key, _, count = reference
    # Only strings are looked up: hashing a tuple that is nested deeply enough ends the process.
    known = isinstance(kind, str) and kind in STORAGES
    if not known or not isinstance(key, str) or not key.isalnum():
        raise VoiceError(f"{path}: malformed reference to its numbers")
    return _Storage(STORAGES[kind], key, int(count))


def _record(function: Any, arguments: Any, path: Any) -> Any:
    if function == ORDERED and arguments == ():
        return {}
    if function == REBUILD and isinstance(arguments, tuple) and len(arguments) >= 4:
        storage, offset, shape, strides = arguments[:4]
        whole = isinstance(shape, tuple) and isinstance(strides, tuple)
        plain = whole and all(isinstance(n, int) for n in (offset, *shape, *strides))
        if isinstance(storage, _Storage) and plain:
            return _Tensor(storage, offset, shape, strides)
    raise VoiceError(f"{path} holds more than a tensor; refused")
