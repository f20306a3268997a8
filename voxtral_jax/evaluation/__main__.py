"""`python -m voxtral_jax.evaluation`."""

from voxtral_jax.evaluation.cli import main

if __name__ == "__main__":
    main()
