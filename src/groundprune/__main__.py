"""`python -m groundprune` is the command line."""

import sys

from groundprune.cli import main

sys.exit(main())
