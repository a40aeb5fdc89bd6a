"""`python -m groundprune` is the command line."""

import sys

from groundprune.cli import main

if __name__ == "__main__":  # processes that training starts import this file too
    sys.exit(main())
