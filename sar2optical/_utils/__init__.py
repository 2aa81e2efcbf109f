"""Helpers that are independent of radar: addresses, files, memory, CPU cores, image comparison."""
