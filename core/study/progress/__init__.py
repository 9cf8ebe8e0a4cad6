"""Estimates of how long cells take, and of how much is done."""
