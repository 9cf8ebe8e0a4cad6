"""The recipes of the built-in checkpoints: training, and measuring what was trained.

Not here: anything that a user runs: this room is not in the wheel.
"""
