"""Combinators: take a method, return a method with the same arguments."""
