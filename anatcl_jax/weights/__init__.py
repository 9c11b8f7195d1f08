"""Weights by path: workdirs, released files read without running their code, names, cards."""
