"""Train the generator (torch, Lightning Fabric)."""
