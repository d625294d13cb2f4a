"""The data engine: builds examples from records."""
