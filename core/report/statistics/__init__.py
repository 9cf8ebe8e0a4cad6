"""Statistics of a study: plain functions of arrays, seeded and vectorized.

Not here: what is compared with what (``report/findings``): these are functions of arrays.

Examples are what is drawn at random, so bootstraps resample examples: a resample is a row of
*weights*, how often each example was drawn, and a mean over it is a matrix product. Everything
that was measured on the same examples shares the weights; that is what makes a comparison paired.
"""
