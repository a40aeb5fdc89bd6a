"""Read a running model and change nothing."""
