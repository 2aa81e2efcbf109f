"""A scene on a map's grid, computed where it is read."""
