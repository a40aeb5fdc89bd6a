"""What a checkout has beside the package, run as `python -m tools.NAME`: it imports groundprune, never the reverse."""
