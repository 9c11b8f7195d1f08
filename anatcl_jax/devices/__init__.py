"""Mesh and mapping, several processes, signals, compiled programs on disk."""
