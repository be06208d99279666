"""Convert PyTorch checkpoints to Flax weights, verified against PyTorch: `python -m convert`."""
