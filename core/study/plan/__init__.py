"""From a file to cells, each with all that its result depends on."""
