"""Is an answer right, by rules: canonical text, tokens, numbers, what a text states, options, verdicts."""
