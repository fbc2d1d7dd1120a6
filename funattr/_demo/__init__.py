"""The demo: a small network for handwritten digits, and the command that explains what it sees."""
