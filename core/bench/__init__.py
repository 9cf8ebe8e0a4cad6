"""Is a pipeline faster here? Measured against the untouched model, in the same process."""
