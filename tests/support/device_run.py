"""What runs on a device that is not there, and on the CPU: `python -m support.device_run FAMILY:PRUNER,...`."""

import contextlib
import json
import sys
import traceback

import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.pruners import make_pruner
from groundprune.tokens import sending
from support.closeness import difference
from support.elsewhere import Elsewhere, elsewhere, moved

GREEDY = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


def in_context(model, inputs, pruner, positions="preserved", **options):
    with gp.prune(model, pruner, positions):
        return model.generate(**inputs, **{**GREEDY, **options}).logits


def by_function(model, inputs, pruner):
    return model.generate(**gp.prune_inputs(model, inputs, pruner), **GREEDY).logits


def encoded_ahead(model, inputs, pruner):
    images = gp.encode(model, inputs, [pruner])
    rest = {name: inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids") if name in inputs}
    short = gp.prune_inputs(model, {**rest, "mm_encoder_outputs": images.select([0, 1])}, pruner)
    return [model(**short).logits[:, -1]]


def second_turn(model, inputs, pruner):
    """Words behind the first turn, and a step, on its cache."""
    with gp.prune(model, pruner):
        first = model(**inputs, use_cache=True)
        more, mask = inputs["input_ids"][:, -3:], inputs["attention_mask"]
        mask = torch.cat([mask, mask[:, -3:]], 1)
        second = model(input_ids=more, attention_mask=mask, past_key_values=first.past_key_values)
    return [first.logits[:, -1], second.logits[:, -1]]


def proven(model, inputs, pruner):
    found = gp.verify(model, inputs, pruner)
    assert found.passed, found
    return []


LOOPS = ("cls-visual", "fastv")  # of which all is run: before the LLM, and inside
CASES = {
    "context": in_context,
    "official": lambda *given: in_context(*given, positions="official"),
    "reassigned": lambda *given: in_context(*given, positions="reassigned"),
    "beams": lambda *given: in_context(*given, num_beams=2),
    "inputs": by_function,
    "encoded": encoded_ahead,
    "second turn": second_turn,
    "verify": proven,
}


def waits_of(call, waits):
    waits.clear()
    call()
    return dict(waits)


def looked_at(model, inputs, waits, pruner=None):
    """What waits, by line: in a prefill; and in four steps of greedy decoding."""
    with contextlib.nullcontext() if pruner is None else gp.prune(model, pruner):
        prefill = waits_of(lambda: model(**inputs), waits)
        if pruner is not None and pruner.label not in LOOPS:
            return {"prefill": prefill}
        short, long = (waits_of(lambda n=n: model.generate(**inputs, max_new_tokens=n), waits) for n in (2, 6))
    return {"prefill": prefill, "steps": {line: long[line] - short.get(line, 0) for line in long}}


def run(family, names):
    """Per pruner and case how far logits are from the CPU's, and what waits: of the stock model too.

    family: of a tiny model, on prompts of all its visuals; or with "@video" behind it, of videos alone.
    """
    family, _, modality = family.partition("@")
    model = tiny_model(family)
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 3, 6)], modality=modality or None)
    cases = [(name, case) for name in names for case in (CASES if name in LOOPS else ["context"])]
    cases = [(name, case) for name, case in cases if not (name == "fastv" and case in ("inputs", "encoded"))]
    with torch.no_grad():
        wanted = {each: CASES[each[1]](model, inputs, make_pruner(each[0], "0.5")) for each in cases}
    found = {}
    sending.READ_AT_ONCE.add("elsewhere")
    with torch.no_grad(), elsewhere() as waits:
        moved(model)
        there = {name: value.to("elsewhere") if torch.is_tensor(value) else value for name, value in inputs.items()}
        found["stock"] = looked_at(model, there, waits)
        for name, case in cases:
            try:
                given = CASES[case](model, there, make_pruner(name, "0.5"))
                assert all(isinstance(x, Elsewhere) for x in given), "logits are on another device"
                apart = [difference(a.held, b) for a, b in zip(given, wanted[name, case], strict=True)]
                found[f"{name} {case}"] = max(apart, default=0.0)
            except Exception:
                found[f"{name} {case}"] = traceback.format_exc()[-1500:]
        for name in names:
            found[name] = looked_at(model, there, waits, make_pruner(name, "0.5"))
    return found


if __name__ == "__main__":
    wishes = dict(each.split(":") for each in sys.argv[1:])
    json.dump({family: run(family, names.split(",")) for family, names in wishes.items()}, sys.stdout)
