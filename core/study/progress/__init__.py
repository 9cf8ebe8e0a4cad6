"""The time that cells take, and how much of a run is done.

Not here: how progress looks on a terminal (``cli``).
"""
