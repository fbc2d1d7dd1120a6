"""How the gradient flows: rules for single operations, on a model as it is."""
