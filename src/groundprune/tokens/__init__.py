"""Where visual tokens lie, how many stay, which ids they keep: pure torch, no model."""
