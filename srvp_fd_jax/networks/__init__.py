"""The feature networks."""
