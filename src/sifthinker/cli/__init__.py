"""The `sif` command: one file per group of commands. No other module prints to the terminal or ends the process."""
