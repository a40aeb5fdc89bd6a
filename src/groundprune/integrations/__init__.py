"""groundprune inside of other systems."""
