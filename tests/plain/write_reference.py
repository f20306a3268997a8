"""Write a reference directory for any params.json, or check one that exists.

From the root of the repository:

    python -m tests.plain.write_reference --params params.json --tekken tekken.json --out DIR
    python -m tests.plain.write_reference --check tests/data/reference
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from .entries import (
    Margins,
    UnsafeError,
    acoustic_entries,
    decode_entries,
    encode_entries,
    run_entries,
)
from .model import Model, load, load_voice, load_wave
from .torch_file import write_voice, write_wave
from .weights import declare, draw, require_consistent

TEXT = "Bonjour, wie geht's? 12 naïve café — 你好。"
PRESET = "neutral_female"
TOLERANCE = 2e-4
"""Of the largest magnitude."""
REDRAWS = 12
"""Recordings and noises tried for one checkpoint before the next checkpoint is drawn."""
CHECKPOINTS = 40
DECODED_FRAMES = 29
POINTS = 5

Entries = dict[str, np.ndarray]


def speech(random: np.random.Generator, rate: int, count: int) -> np.ndarray:
    """Something like speech: a gliding voice in syllables, under moving formants, with breath."""
    t = np.arange(count) / rate
    pitch = 140 + 40 * np.sin(2 * np.pi * random.uniform(0.3, 0.8) * t + random.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formant = 700 + 400 * np.sin(2 * np.pi * random.uniform(1, 2) * t + random.uniform(0, 6))
    voiced = np.zeros(count)
    for harmonic in range(1, 24):
        gain = np.exp(-(((harmonic * pitch - formant) / 400) ** 2)) + 0.3 / harmonic
        voiced += gain * np.sin(harmonic * phase + random.uniform(0, 6))
    syllables = np.maximum(0, np.sin(2 * np.pi * 3.5 * t + random.uniform(0, 6))) ** 0.5
    sound = 0.08 * voiced * syllables + (0.004 + 0.02 * (1 - syllables)) * random.normal(size=count)
    return sound.astype(np.float32)


def redraw(make: Callable[[int], Entries]) -> Entries:
    """What `make` returns for the first of its random tries that is safe."""
    for attempt in range(REDRAWS):
        try:
            return make(attempt)
        except UnsafeError as error:
            last = error
    raise last


def draw_codes(model: Model, random: np.random.Generator) -> np.ndarray:
    """Random codes [2, K, frames], without offset."""
    args, frames = model.codec, DECODED_FRAMES
    semantic = random.integers(0, args["semantic_codebook_size"], (2, 1, frames))
    acoustic = random.integers(0, args["acoustic_codebook_size"], (2, args["acoustic_dim"], frames))
    return np.concatenate([semantic, acoustic], axis=1).astype(np.int32)


def fill(out: Path, params: dict, text: str, seed: list[int], frames: int, seconds: float) -> None:
    """Draw weights, voices, recording and noise, and compute what is expected of them."""
    random = np.random.default_rng(seed)
    save_file(draw(params, random), out / "consolidated.safetensors")
    model = load(out)
    spread = 0.5 * np.sqrt(model.codebooks)
    for name in model.codec["voice"]:
        shape = (int(random.integers(24, 40)), params["dim"])
        write_voice(out / "voice_embedding" / f"{name}.pt", spread * random.normal(size=shape))
    rate = model.codec["sampling_rate"]
    count = int(seconds * rate)
    # Neither whole patches nor, therefore, whole frames.
    count += 20 if count % model.codec["pretransform_patch_size"] == 0 else 0

    def recording(attempt: int) -> Entries:
        samples = speech(np.random.default_rng([*seed, 1, attempt]), rate, count)
        write_wave(out / "reference.wav", samples, rate)
        return encode_entries(model, samples, Margins(strict=True))

    expected = redraw(recording)
    voices = {
        "voice": load_voice(out / "voice_embedding" / f"{PRESET}.pt"),
        "clone": expected["voice.embedding"],
    }
    for place, (name, voice) in enumerate(voices.items(), 2):

        def run(
            attempt: int, place: int = place, name: str = name, voice: np.ndarray = voice
        ) -> Entries:
            source = np.random.default_rng([*seed, place, attempt])
            noise = source.normal(size=(frames, model.codebooks - 1)).astype(np.float32)
            return run_entries(model, name, text, voice, noise, Margins(strict=True))

        expected |= redraw(run)
    h = random.normal(size=(POINTS, params["dim"])).astype(np.float32)
    x = random.normal(size=(POINTS, model.codebooks - 1)).astype(np.float32)
    t = random.uniform(size=POINTS).astype(np.float32)
    expected |= acoustic_entries(model, h, x, t)
    expected |= decode_entries(model, draw_codes(model, random))
    save_file(
        {name: np.ascontiguousarray(value) for name, value in expected.items()},
        out / "expected.safetensors",
    )


def write_reference(
    out: Path,
    params: dict,
    tekken: Path,
    *,
    seed: int = 0,
    frames: int = 6,
    seconds: float = 2.02,
    text: str = TEXT,
) -> None:
    """Write a whole reference directory; raise ValueError for params that contradict themselves."""
    require_consistent(params)
    (out / "voice_embedding").mkdir(parents=True, exist_ok=True)
    (out / "params.json").write_text(json.dumps(params, indent=2) + "\n", encoding="utf-8")
    (out / "text.txt").write_text(text, encoding="utf-8")
    shutil.copyfile(tekken, out / "tekken.json")
    for checkpoint in range(CHECKPOINTS):
        try:
            fill(out, params, text, [seed, checkpoint], frames, seconds)
            return
        except UnsafeError as error:
            print(f"checkpoint {checkpoint} is unsafe, drawing another: {error}", file=sys.stderr)
    raise RuntimeError("no safe draw was found; try another seed or fewer frames")


def recompute(directory: Path, given: Entries, margins: Margins, dtype: type) -> Entries:
    """Every entry from the directory's inputs and the random numbers in `given`."""
    model = load(directory, dtype)
    samples, rate = load_wave(directory / "reference.wav")
    if rate != model.codec["sampling_rate"]:
        raise ValueError(f"reference.wav has {rate} samples a second")
    text = (directory / "text.txt").read_text(encoding="utf-8")
    entries = encode_entries(model, samples, margins)
    entries |= decode_entries(model, given["decode.codes"])
    entries |= acoustic_entries(model, *(given[f"acoustic.{name}"] for name in "hxt"))
    voice = load_voice(directory / "voice_embedding" / f"{PRESET}.pt")
    for name, prompt in (("voice", voice), ("clone", entries["voice.embedding"])):
        entries |= run_entries(model, name, text, prompt, given[f"{name}.noise"], margins)
    return entries


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest magnitude; infinite where shapes or codes differ."""
    if ours.shape != theirs.shape:
        return np.inf
    if theirs.dtype.kind == "i":
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    real = theirs > -1e29
    if not np.array_equal(ours > -1e29, real):
        return np.inf
    return float(np.abs(ours - theirs)[real].max() / np.abs(theirs[real]).max())


def check(directory: Path, dtype: type = np.float32) -> bool:
    """Recompute a reference, print the error of every entry, and say whether all are met."""
    params = json.loads((directory / "params.json").read_text(encoding="utf-8"))
    require_consistent(params)
    stored = load_file(directory / "consolidated.safetensors")
    declared = {weight.name: weight.shape for weight in declare(params)}
    good = declared == {name: value.shape for name, value in stored.items()}
    good &= all(value.dtype == ml_dtypes.bfloat16 for value in stored.values())
    print(f"{len(stored)} weights: names, shapes and types {'agree' if good else 'DIFFER'}")
    expected, margins = load_file(directory / "expected.safetensors"), Margins()
    entries = recompute(directory, expected, margins, dtype)
    for name in sorted(expected.keys() | entries.keys()):
        error = np.inf
        if name in expected and name in entries:
            error = difference(entries[name], expected[name])
        good &= error <= TOLERANCE
        print(f"{error:9.2e} {'' if error <= TOLERANCE else 'MISS '}{name}")
    print(f"smallest margins: {margins}")
    return bool(good and margins.safe)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="DIR", help="recompute this reference")
    parser.add_argument("--double", action="store_true", help="check in float64")
    parser.add_argument("--params", type=Path, help="the params.json to write a reference for")
    parser.add_argument("--tekken", type=Path, help="a tokenizer, copied")
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=6, help="generated frames of each run")
    parser.add_argument("--seconds", type=float, default=2.02, help="length of reference.wav")
    parser.add_argument("--text", default=TEXT, help="what is spoken")
    args = parser.parse_args()
    if args.check:
        return 0 if check(args.check, np.float64 if args.double else np.float32) else 1
    if not (args.params and args.tekken and args.out):
        parser.error("give --check, or --params, --tekken and --out")
    write_reference(
        args.out,
        json.loads(args.params.read_text(encoding="utf-8")),
        args.tekken,
        seed=args.seed,
        frames=args.frames,
        seconds=args.seconds,
        text=args.text,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
