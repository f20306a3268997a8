"""Speaks a text: `python infer.py --text "..." --ref voice.wav --out hello.wav` (see --help)."""

from voxtral_jax.cli import main

if __name__ == "__main__":
    main()
