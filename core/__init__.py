"""The ground of all rooms: errors, names, limits of numbers, units, a torch that comes late.

Not here: methods (``strategies``) and model families (``adapters``), none of which core knows by
name, and whatever one room alone needs.
"""
