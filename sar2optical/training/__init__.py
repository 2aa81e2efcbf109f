"""Training and evaluating the generator (torch)."""
