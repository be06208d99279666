"""What a distance is worth: its floor, its interval, its limit for many clips."""
