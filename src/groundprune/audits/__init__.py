"""What anybody's pruning code does to positions: a recorder, what it saw matched with the unpruned run, a verdict."""
