"""The export stage: generator checkpoints to verified files that engines run."""
