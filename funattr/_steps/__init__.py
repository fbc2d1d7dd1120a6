"""A function at many points."""
