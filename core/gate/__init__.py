"""The gate: whatever a plugin answers is checked here, whoever asked, before anything uses it."""
