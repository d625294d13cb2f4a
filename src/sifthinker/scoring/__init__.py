"""Score answers by rules: canonical text, tokens, numbers, statements, options, verdicts. Rewards for trainers."""
