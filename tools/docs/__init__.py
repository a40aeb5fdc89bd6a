"""What `make readme` writes: tables, catalogue and drawings of README and docs."""
