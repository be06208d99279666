"""The feature networks, and where their weights are found."""
