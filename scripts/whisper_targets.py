"""Targets of ASR distillation: Whisper's hidden states and alignments of every utterance.

    python scripts/whisper_targets.py data/train.jsonl data/whisper --whisper DIR

A frozen Whisper hears each utterance and is shown its transcript. What is kept, for each token of
the text: the last decoder layer's hidden state at the token, and how much of each codec frame
belongs to it. The same command goes on where it was stopped. Needs the extra
`voxtral-jax[whisper]`, and a directory with a Whisper model in transformers' layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from voxtral_jax.errors import AudioError, CheckpointError, DataError, VoxtralError
from voxtral_jax.progress import followed
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.recordings import read_utterance
from voxtral_jax.training.data.targets import TargetWriter
from voxtral_jax.training.data.utterances import Utterance

RATE = 16_000
"""Whisper's sample rate, in Hz."""
LONGEST = 30.0
"""Seconds that Whisper hears."""
STATES_PER_SECOND = 50
"""Of Whisper's encoder."""
MEDIAN_WIDTH = 7
"""Encoder states that the median filter looks at, as in Whisper's own word times."""
NAMED = 10
"""Utterances left out that are named; all are counted."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen Whisper.

    Attributes:
        heads: `[(layer, head)]` whose attention tracks the words' times.
    """

    model: Any
    processor: Any
    heads: list[tuple[int, int]]
    device: str


def load_teacher(directory: Path, device: str) -> Teacher:
    """Loads Whisper from a local directory.

    The heads are those that the model's generation configuration names (`alignment_heads`); where
    it names none, all heads of the upper half of the decoder, as Whisper itself does.

    Raises:
        CheckpointError: there is no Whisper.
    """
    try:
        model = WhisperForConditionalGeneration.from_pretrained(
            directory, local_files_only=True, attn_implementation="eager"
        )
        processor = WhisperProcessor.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory} holds no Whisper of transformers: {error}") from None
    heads = getattr(model.generation_config, "alignment_heads", None)
    if heads is None:
        layers, count = model.config.decoder_layers, model.config.decoder_attention_heads
        heads = [(layer, head) for layer in range(layers // 2, layers) for head in range(count)]
    return Teacher(
        model.eval().to(device), processor, [(layer, head) for layer, head in heads], device
    )


def token_ids(teacher: Teacher, one: Utterance) -> tuple[list[int], int]:
    """Whisper's prompt and the transcript, and how many of these tokens are the prompt."""
    tokenizer = teacher.processor.tokenizer
    names = ["<|startoftranscript|>", f"<|{one.language}|>", "<|transcribe|>", "<|notimestamps|>"]
    prompt = [tokenizer.convert_tokens_to_ids(name) for name in names]
    if tokenizer.unk_token_id in prompt[1:] or None in prompt:
        # A language (or English-only model) that Whisper has no token for.
        prompt = [prompt[0], prompt[-1]]
    text = tokenizer.encode(" " + one.texts[0].strip(), add_special_tokens=False)
    return prompt + text, len(prompt)


def median_filter(weights: torch.Tensor, width: int) -> torch.Tensor:
    """Median over a window of the last axis, mirrored at its ends; short axes stay as they are."""
    half = width // 2
    if weights.shape[-1] <= half:
        return weights
    padded = torch.nn.functional.pad(weights, (half, half, 0, 0), mode="reflect")
    return padded.unfold(-1, width, 1).median(dim=-1).values


def soft_alignment(attention: torch.Tensor, states: int, frames: int) -> np.ndarray:
    """How much each codec frame belongs to each token, `[N, frames]`, non-negative.

    Standardised over tokens, median-filtered over time and averaged over heads, as Whisper finds
    word times. What is left of both signs is cut at 0: a token keeps the frames that look at it
    more than at the mean token, and nothing far away. (A softmax over tokens would leave a tail in
    every frame, which adds up to more than the token itself.) Interpolated from 50 Hz to frames.

    Args:
        attention: `[heads, N, states of 30 s]` cross-attention of the text's tokens.
        states: of the encoder that lie within the utterance.
        frames: codec frames of the utterance.
    """
    weights = attention[..., :states].float()
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    weights = (weights - mean) / (deviation + 1e-6)
    scores = median_filter(weights, MEDIAN_WIDTH).mean(dim=0)
    kept = torch.relu(scores).cpu().numpy()
    centres = (np.arange(frames) + 0.5) * states / frames - 0.5
    return np.stack([np.interp(centres, np.arange(states), row) for row in kept])


@torch.no_grad()
def teach(
    teacher: Teacher, batch: Sequence[tuple[Utterance, np.ndarray]], frame_rate: float
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Key, hidden states `[N, D]` and alignment `[N, T]` of utterances (samples at 16 kHz)."""
    heard = teacher.processor.feature_extractor(
        [samples for _, samples in batch], sampling_rate=RATE, return_tensors="pt"
    )
    tokens = [token_ids(teacher, one) for one, _ in batch]
    longest = max(len(ids) for ids, _ in tokens)
    # Padding follows, and the decoder looks back only.
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, (listed, _) in enumerate(tokens):
        ids[row, : len(listed)] = torch.tensor(listed)
    made = teacher.model(
        input_features=heard.input_features.to(teacher.device, teacher.model.dtype),
        decoder_input_ids=ids.to(teacher.device),
        output_hidden_states=True,
        output_attentions=True,
    )
    for row, ((one, samples), (listed, prompt)) in enumerate(zip(batch, tokens, strict=True)):
        places = slice(prompt, len(listed))
        seconds = len(samples) / RATE
        hidden = made.decoder_hidden_states[-1][row, places].float().cpu().numpy()
        attention = torch.stack(
            [made.cross_attentions[layer][row, head, places] for layer, head in teacher.heads]
        )
        alignment = soft_alignment(
            attention,
            max(1, round(seconds * STATES_PER_SECOND)),
            math.ceil(seconds * frame_rate),
        )
        yield one.key, hidden, alignment


def usable(teacher: Teacher, one: Utterance) -> str | None:
    """Why Whisper cannot teach this utterance, or None."""
    if one.seconds > LONGEST:
        return f"it lasts {one.seconds:.1f} s, Whisper hears {LONGEST:.0f} s"
    ids, prompt = token_ids(teacher, one)
    if len(ids) > teacher.model.config.max_target_positions:
        return f"its transcript has {len(ids)} tokens"
    return None if len(ids) > prompt else "its transcript has no tokens"


def main(
    manifest: Annotated[str, typer.Argument(help="Manifest, or directory of audio shards.")],
    out: Annotated[Path, typer.Argument(help="Directory of the targets.")],
    whisper: Annotated[Path, typer.Option(help="Directory of a Whisper model.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    frame_rate: Annotated[float, typer.Option(help="Codec frames per second.")] = 12.5,
) -> None:
    """Computes the targets of every utterance that has none yet."""
    try:
        run(manifest, out, whisper, device, batch_size, frame_rate)
    except VoxtralError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def run(
    manifest: str, out: Path, whisper: Path, device: str, batch_size: int, frame_rate: float
) -> None:
    """What `main` does; raises VoxtralError."""
    utterances = read_manifest(manifest, need_text=True).utterances
    teacher = load_teacher(whisper, device)
    left_out: list[str] = []
    with TargetWriter(out) as writer:
        missing = [one for one in utterances if one.key not in writer.done]
        starts = range(0, len(missing), batch_size)
        for start in followed(starts, "batches heard", len(starts)):
            batch = []
            for one in missing[start : start + batch_size]:
                reason = usable(teacher, one)
                try:
                    if reason is None:
                        batch.append((one, read_utterance(one, RATE)))
                except (AudioError, DataError) as error:
                    reason = str(error)
                if reason is not None:
                    left_out.append(f"{one.key}: {reason}")
            for key, hidden, alignment in teach(teacher, batch, frame_rate) if batch else ():
                writer.write(key, hidden, alignment)
    typer.echo(f"{len(missing) - len(left_out):,} of {len(missing):,} utterances done")
    for line in left_out[:NAMED]:
        typer.echo(f"left out: {line}")


if __name__ == "__main__":
    typer.run(main)
