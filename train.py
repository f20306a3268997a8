"""`python train.py STAGE --config FILE`: see `voxtral_jax.training.cli`."""

from voxtral_jax.training.cli import main

if __name__ == "__main__":
    main()
