"""The only place that touches the internals of transformers."""
