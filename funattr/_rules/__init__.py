"""How the backward pass flows."""
