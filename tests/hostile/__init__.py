"""Hostile input of seven kinds: each case is held, or refused in one line (docs/security.md)."""
