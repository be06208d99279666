"""Reports of distances, with their reliability and some of the clips."""
