"""The kernel: where, what, and the one gradient recipe."""
