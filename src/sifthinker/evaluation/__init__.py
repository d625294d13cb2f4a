"""Evaluation of models: strict scoring, and a count with every number."""
