"""Shards and all after them: writing, reading, cache, pipeline, augmentation, inspection, damage."""
