"""Slow float64 implementations of the published formulas, written without looking at ours."""
