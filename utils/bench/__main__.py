"""`python -m utils.bench`."""

from utils.bench import main

main()
