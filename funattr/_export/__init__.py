"""Attributions as programs that run without Python."""
