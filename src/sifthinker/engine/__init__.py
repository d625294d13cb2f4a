"""The data engine: records in, examples out."""
