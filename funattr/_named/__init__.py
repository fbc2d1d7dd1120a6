"""Methods that are made of methods."""
