"""Pruning between decoder layers against the masked oracle, in every way to generate."""

import contextlib
import copy
import functools
import itertools

import pytest
import torch
from transformers import CompileConfig, DynamicCache, StaticCache

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from support.closeness import assert_near
from support.generating import TOLERANCE, generate, snapshot
from support.inside import LastRow, Staged

PRUNERS = [LastRow(keep=0.4), LastRow(keep=0.4, evict=True), Staged(keep=0.4), Staged(keep=0.4, evict=True)]
IDS = ["one", "one evicting", "staged", "staged evicting"]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", layers=4, side=6)


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, [(1, 5, 7), (2, 2, 4), (1, 9, 3)])


@pytest.mark.parametrize("pruner", PRUNERS, ids=IDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True, "top_k": 20}],
    ids=["greedy", "beams", "samples"],
)
def test_every_way_to_generate_equals_the_masked_oracle(model, inputs, pruner, options):
    torch.manual_seed(3)
    with gp.prune(model, pruner) as run:
        pruned = generate(model, inputs, **options)
    torch.manual_seed(3)
    with hide(model, hidden_columns(run.prompt)):
        wanted = generate(model, inputs, **options)
    torch.manual_seed(3)
    with gp.prune(model, pruner, "reassigned"):
        control = generate(model, inputs, **options)
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE
    assert relative_difference(control.logits[:1], wanted.logits[:1]) > 1e-2


def test_eviction_is_what_decoding_sees_and_prefill_does_not(model, inputs):
    found = {}
    for evict in (False, True):
        with gp.prune(model, LastRow(keep=0.4, evict=evict)) as run:
            found[evict] = generate(model, inputs)
        assert [layer for layer, _ in run.stages] == [0, 1]
    first, later = (
        relative_difference(found[True].logits[part], found[False].logits[part]) for part in (slice(1), slice(1, 2))
    )
    assert first == 0
    assert later > 1e-3


@pytest.mark.parametrize("evict", [False, True])
def test_the_cache_is_shorter_from_the_stage_on(model, evict):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with gp.prune(model, LastRow(layer=2, keep=0.5, evict=evict)), torch.no_grad():
        cache = model(**inputs).past_key_values
    before = 30 if evict else 48  # 12 words and 36 tokens, of which 18 stay
    assert [cache.get_seq_length(layer) for layer in range(4)] == [before, before, 30, 30]


def ids_of(model, segment, layer, args, kwargs):
    """Gives a layer of the unpruned model the ids of a segment; hidden columns may have any."""
    cos, _ = kwargs["position_embeddings"]
    ids = torch.arange(segment.compaction.length)[None]
    ids[0, segment.compaction.index[0]] = segment.position[0, 0]
    new = ids if cos.shape[1] > 1 else kwargs["position_ids"] + segment.shift
    return args, {**kwargs, "position_embeddings": model.model.language_model.rotary_emb(cos, new)}


@pytest.mark.parametrize(
    ("policy", "evict"),
    [*itertools.product(["reassigned", "reassigned-image", "stretched"], [False, True]),
     ("shifted:9", False), ("permuted:0", False)],
)  # fmt: skip
def test_other_ids_hold_from_the_stage_on_and_in_decoding(model, policy, evict):
    """Equal to the oracle with those ids in the rotary embedding of the layers from the stage on."""
    inputs = tiny_inputs(model, [(1, 5, 7)])
    pruner = LastRow(layer=2, keep=0.5, evict=evict)
    with gp.prune(model, pruner, policy) as run:
        pruned = generate(model, inputs)
    with contextlib.ExitStack() as stack:
        for index, layer in enumerate(model.model.language_model.layers):
            hook = functools.partial(ids_of, model, run.prompt.segments[index // 2])
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        stack.enter_context(hide(model, hidden_columns(run.prompt)))
        wanted = generate(model, inputs)
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE


@pytest.mark.parametrize("pruner", PRUNERS, ids=IDS)
def test_a_static_cache_equals_a_dynamic_one(model, inputs, pruner):
    with gp.prune(model, pruner):
        wanted = generate(model, inputs)
        static = StaticCache(config=model.config.get_text_config(), max_cache_len=128)
        got = generate(model, inputs, past_key_values=static)
    assert got.sequences.equal(wanted.sequences)
    assert relative_difference(got.logits, wanted.logits) < TOLERANCE


@pytest.mark.parametrize(
    ("pruner", "policy"),
    [(gp.Spatial(keep=0.5), "preserved"), (PRUNERS[0], "reassigned"), (PRUNERS[3], "preserved")],
    ids=["before", "one", "staged evicting"],
)
def test_compiled_decoding_is_one_graph_without_a_break(model, inputs, pruner, policy):
    compiled = CompileConfig(fullgraph=True, backend="eager", mode=None)  # a break is an error under fullgraph
    compiled._compile_all_devices = True  # generate compiles on accelerators only
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with gp.prune(model, pruner, policy):
        wanted = generate(model, inputs, cache_implementation="static")
        assert not counters["stats"]
        got = generate(model, inputs, cache_implementation="static", compile_config=compiled)
    assert counters["stats"]["unique_graphs"] == 1
    assert got.sequences.equal(wanted.sequences)
    assert relative_difference(got.logits, wanted.logits) < TOLERANCE


@pytest.mark.parametrize("pruner", PRUNERS, ids=IDS)
def test_drafted_tokens_that_are_rejected_leave_no_trace(model, pruner):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    inputs["input_ids"][0, -6:] = torch.tensor(
        [11, 12, 13, 11, 12, 13]
    )  # a lookup in the prompt finds drafts at once
    with gp.prune(model, pruner):
        wanted = generate(model, inputs, max_new_tokens=12).sequences
        drafted = generate(model, inputs, max_new_tokens=12, prompt_lookup_num_tokens=3).sequences
    assert drafted.equal(wanted)


@pytest.mark.parametrize("pruner", PRUNERS, ids=IDS)
def test_a_second_turn_on_the_kept_cache_equals_the_oracle(model, pruner):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    more = torch.tensor([[11, 12, 13]])

    def two_turns():
        cache = DynamicCache(config=model.config.get_text_config())
        first = generate(model, inputs, past_key_values=cache).sequences
        ids = torch.cat([first, more], 1)
        return generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, past_key_values=cache)

    with gp.prune(model, pruner) as run:
        pruned = two_turns()
    with hide(model, hidden_columns(run.prompt)):
        wanted = two_turns()
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE


def test_two_conversations_in_one_context_do_not_mix(model):
    first, second = tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(2, 3, 2)], seed=9)
    with gp.prune(model, Staged(keep=0.4)), torch.no_grad():
        alone = [generate(model, each, max_new_tokens=4).sequences for each in (first, second)]
        outputs = [model(**given) for given in (first, second)]
        caches, logits = [o.past_key_values for o in outputs], [o.logits[:, -1:] for o in outputs]
        said = [[], []]
        tokens = [row.argmax(-1) for row in logits]
        for _ in range(4):
            for i in (0, 1):
                said[i].append(tokens[i])
                tokens[i] = model(input_ids=tokens[i], past_key_values=caches[i]).logits[:, -1:].argmax(-1)
    for i, given in enumerate((first, second)):
        assert torch.cat(said[i], 1).equal(alone[i][:, given["input_ids"].shape[1] :])


def test_a_plain_forward_has_the_oracles_logits_and_loss(model):
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    labels = inputs["input_ids"].clone()
    labels[
        :, :-3
    ] = -100  # an answer's tokens; the word right after an image is predicted by a token that may be gone
    with torch.no_grad():
        with gp.prune(model, Staged(keep=0.4)) as run:
            pruned = model(**inputs, labels=labels)
        with hide(model, hidden_columns(run.prompt)):
            wanted = model(**inputs, labels=labels)
    assert_near(pruned.loss, wanted.loss)
    last = run.prompt.segments[-1].compaction
    for b in range(2):
        mine = last.mask[b]
        assert relative_difference([pruned.logits[b, mine]], [wanted.logits[b, last.index[b, mine]]]) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_stays_close(inputs, dtype):
    model = tiny_model("llava", layers=4, side=6).to(dtype)
    given = {**inputs, "pixel_values": inputs["pixel_values"].to(dtype)}
    with torch.no_grad(), gp.prune(model, Staged(keep=0.4)) as run:
        pruned = model(**given).logits[:, -1]
    with torch.no_grad(), hide(model, hidden_columns(run.prompt)):
        wanted = model(**given).logits[:, -1]
    assert relative_difference([pruned], [wanted]) < 0.1


def test_eager_attention_gives_the_same(model, inputs):
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    with gp.prune(model, Staged(keep=0.4)):
        wanted = generate(model, inputs)
    with gp.prune(other, Staged(keep=0.4)):
        got = generate(other, inputs)
    assert got.sequences.equal(wanted.sequences)
    assert relative_difference(got.logits, wanted.logits) < TOLERANCE


def test_leaving_leaves_nothing_behind_also_after_an_exception(model, inputs):
    generate(model, inputs)  # transformers leaves hooks of its own in the first forward
    before = snapshot(model)

    class Fails(LastRow):
        def score(self, signals, layout, stage):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), gp.prune(model, Fails(keep=0.5)):
        generate(model, inputs)
    assert snapshot(model) == before
    with gp.prune(model, Fails(keep=0.5)):
        for _ in range(2):  # a failed prefill leaves nothing for the next one either
            with pytest.raises(ZeroDivisionError):
                generate(model, inputs)
    assert snapshot(model) == before
    assert "_loss_function" not in vars(model)


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_that_the_model_lacks_is_refused(model, layer):
    with pytest.raises(gp.GroundPruneError, match="allows 1 to 3"), gp.prune(model, LastRow(layer=layer, keep=0.5)):
        pass
