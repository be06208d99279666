"""Videos to score: where they come from and what is done to them."""
