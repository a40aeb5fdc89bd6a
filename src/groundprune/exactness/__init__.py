"""The proof: a masked oracle, and tiny models to prove it on."""
