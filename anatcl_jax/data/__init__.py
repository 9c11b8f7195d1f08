"""Shards and all after them: writing, reading, cache, pipeline, augmenting, inspection, damage."""
