"""What a checkout has beside the package, run by `python -m tools.NAME`: imports groundprune, never the reverse."""
