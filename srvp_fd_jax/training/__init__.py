"""Training of SRVP models."""
