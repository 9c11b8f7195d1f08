"""The evaluation of frozen features: tasks, estimators, baselines, statistics, results."""
