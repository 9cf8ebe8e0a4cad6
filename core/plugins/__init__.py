"""Finding plugins and keeping what they add."""
