"""Checkpoints and voices of the released layout."""
