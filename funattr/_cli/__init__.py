"""The command's parts: where a model comes from, what goes into it, what is printed and written. Uses the public API only."""
