"""Convolutions that are fast on the CPU as well, and their gradients."""
