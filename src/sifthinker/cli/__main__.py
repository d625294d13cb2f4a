"""`python -m sifthinker.cli`, for launchers such as torchrun."""

from sifthinker.cli.main import main

main()
