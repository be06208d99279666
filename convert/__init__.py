"""Converts PyTorch checkpoints to Flax weights and verifies them: `python -m convert`."""
