"""How far clips are from real ones, told by corruptions of real clips that are as far."""
