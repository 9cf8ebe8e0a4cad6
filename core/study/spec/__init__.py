"""A study's file, validated.

Not here: what its names resolve to on this machine (``study/plan``).
"""
