"""Files that appear whole or not at all, checkpoints of PyTorch, and checks of arrays."""
