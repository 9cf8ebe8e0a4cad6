"""The contract, the engine and the command line. Knows no method and no model by name."""
