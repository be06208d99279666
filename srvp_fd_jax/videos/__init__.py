"""Finds stored videos and reads clips from them."""
