"""The workers' side of the line protocol of `compare`: a JSON line in, a JSON line out.

Runs in the authors' environment too: it imports nothing but torch.
"""

import json
import os
import sys
import time
import traceback

import torch


def serve(call, versions):
    """Answer until stdin ends. call(variant, rows) -> logits [rows, vocabulary] of the last token of each prompt."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what official code prints goes to stderr
    torch.set_num_threads(1)

    def say(value):
        out.write(json.dumps(value) + "\n")
        out.flush()

    say(versions)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            with torch.inference_mode():
                say(_answer(call, asked))
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"[:300]})


def _answer(call, asked):
    if asked["what"] == "logits":
        return {"logits": call(asked["variant"], asked["rows"]).tolist()}
    on_gpu = torch.cuda.is_available() and os.environ.get("DEVICE") == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    start = clock()
    call(asked["variant"], asked["rows"])
    wait()
    return {"seconds": clock() - start}
