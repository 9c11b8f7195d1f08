"""From a cohort on disk to batches: volumes, tables, shards, input pipeline."""
