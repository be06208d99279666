"""Runs `srvp-fd-jax convert` in a clone: `python -m convert`."""
