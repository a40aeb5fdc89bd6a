"""The authors' own pruning code beside ours. None of it is stored here: `sources` gets it, at named commits."""
