"""Make a model's inputs, or what its layers see, shorter."""
