"""What is broken in a manifest: lines that cannot be used, recordings that cannot be decoded."""

from __future__ import annotations

from voxtral_jax.errors import DataError
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.data.manifest import Manifest

NAMED_BROKEN = 10
"""Lines or recordings that are named; all are counted."""


def manifest_notes(manifest: Manifest) -> tuple[str, ...]:
    """What a manifest holds and what was left out of it."""
    seconds = sum(one.seconds for one in manifest.utterances)
    speakers = len({one.speaker for one in manifest.utterances})
    notes = [
        f"{len(manifest.utterances):,} utterances, {seconds / 3600:.2f} h, {speakers:,} speakers"
    ]
    if manifest.broken:
        notes.append(f"{len(manifest.broken)} lines of the manifest are broken and left out:")
        notes += [f"  {one.where}: {one.reason}" for one in manifest.broken[:NAMED_BROKEN]]
    return tuple(notes)


class Unreadable:
    """Recordings whose header was good and whose audio was not: counted until too many."""

    def __init__(self, manifest: Manifest, most_broken: float) -> None:
        self._manifest, self._most = manifest, most_broken * len(manifest.utterances)
        self._found: set[int] = set()

    def inspect(self, batch: CropBatch) -> dict[str, float]:
        """Looks for rows without audio.

        Raises:
            DataError: there were too many.
        """
        for utterance in batch.utterances[batch.lengths == 0]:
            self._found.add(int(utterance))
        if len(self._found) > self._most:
            names = [self._manifest.utterances[number].key for number in sorted(self._found)]
            raise DataError(
                f"{len(names)} recordings could not be decoded, more than data.most_broken of the "
                f"manifest: {', '.join(names[:NAMED_BROKEN])}"
            )
        return {"unreadable": float(len(self._found))}
