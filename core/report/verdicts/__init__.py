"""Sentences made from numbers: every verdict of a report is worded here."""
