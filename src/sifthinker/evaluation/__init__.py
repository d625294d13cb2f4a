"""Measuring models: strict scoring, every number with its count."""
