"""Translate a scene into a mosaic: options, preparation, streaming, estimate, provenance."""
