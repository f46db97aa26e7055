"""Weights & Biases: a view of finished records and running trainings, which neither stops nor loses a run."""
