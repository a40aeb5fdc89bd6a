"""Settings that have to be in place before torch or transformers is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads anything
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from hypothesis import HealthCheck, settings
from transformers.utils import logging

# One thread per test process unless asked for: more only fight over the same cores.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

logging.disable_progress_bar()  # tests that read stderr also save checkpoints

# Time limits per example fail at random on a busy machine.
settings.register_profile("groundprune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("groundprune")
