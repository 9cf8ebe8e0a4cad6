"""Chat templates: programs of strangers, run with their steps counted."""
