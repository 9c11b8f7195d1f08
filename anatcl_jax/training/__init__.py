"""Pretraining: the loop, its step, its checkpoints, and what watches them."""
