"""Generator and discriminators (torch), and their checkpoints."""
