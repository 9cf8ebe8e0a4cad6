"""Models: found, loaded, and seen through their adapter."""
