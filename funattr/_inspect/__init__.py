"""Looking at a model before explaining it."""
