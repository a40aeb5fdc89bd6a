"""One file per question of the paper (GAP, arXiv 2506.21873)."""
