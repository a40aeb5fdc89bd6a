"""Load a checkpoint, its processor and the words it is asked in."""
