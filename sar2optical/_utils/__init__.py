"""Helpers that know nothing of radar: addresses, files, memory, cores."""
