"""A frozen encoder over images and shards: rows, table, checks."""
