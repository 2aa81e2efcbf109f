"""Generators and discriminators (torch), and their checkpoints."""
