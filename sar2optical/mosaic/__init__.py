"""Everything that is written: strips, run folders, mosaics, pictures."""
