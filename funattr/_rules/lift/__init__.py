"""DeepLIFT's rules."""
