"""Moving digits, and how each distance reacts to their corruption."""
