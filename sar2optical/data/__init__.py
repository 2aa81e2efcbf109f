"""Training data: find, check, read, split and augment pairs of SAR and optical chips."""
