"""Settings that have to be in place before torch or transformers is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads anything
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # one thread per test process: more only fight over the same cores

# Time limits per example fail at random on a busy machine.
settings.register_profile("groundprune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("groundprune")
