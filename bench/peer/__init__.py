"""Other tools over the same scene: their environments, what runs inside them, and how what they wrote is judged."""
