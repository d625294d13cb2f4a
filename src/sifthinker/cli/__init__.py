"""The `sif` command: a file for each group of commands. Nothing else prints to the terminal or ends the process."""
