"""Training pairs: found, read, augmented."""
