"""Training: data, losses, the stages and their loop. `train.py` is its command line."""
