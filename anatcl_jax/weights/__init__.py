"""Weights by path or name: workdirs, released files, whose code is never run, names, cards."""
