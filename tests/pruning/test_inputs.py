"""`gp.prune_inputs`, then stock `generate`: equal to the masked oracle and to `gp.prune`, in every family and way."""

import contextlib
import copy

import pytest
import torch
from transformers import GenerationConfig

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from groundprune.families import families
from groundprune.pruning.beams import repeated
from support.families import PROMPTS, model_of
from support.generating import CONTROL, MODES, PRUNER, TOLERANCE, generate, snapshot
from support.versions import REPEATS_WRONGLY, needs_chunks

COPIES = {"beams": 3, "samples": 2}

each_family = pytest.mark.parametrize("name", families())
each_policy = pytest.mark.parametrize("policy", ["preserved", "reassigned"])


def inputs_of(model, mode):
    if mode != "drafts":
        return tiny_inputs(model, PROMPTS)
    inputs = tiny_inputs(model, PROMPTS[:1])
    inputs["input_ids"][0, -6:] = torch.tensor([11, 12, 13, 11, 12, 13])
    return inputs


def equal_under(policy, got, wanted):
    """To the oracle: within the tolerance with preserved ids; with reassigned ones the control, which must differ."""
    difference = relative_difference(got, wanted)
    return difference < TOLERANCE if policy == "preserved" else difference > CONTROL


@each_family
@each_policy
@pytest.mark.parametrize("mode", MODES)
def test_stock_generate_gives_what_the_oracle_and_the_context_give(name, policy, mode):
    model, options = model_of(name), MODES[mode]
    inputs = inputs_of(model, mode)
    short = gp.prune_inputs(model, inputs, PRUNER, policy)
    if mode == "drafts" and model._is_stateful:
        pytest.skip("stock code drafts no tokens where a state cannot be rolled back: test_qwen3_5.py")
    if mode in COPIES and name in REPEATS_WRONGLY:
        pytest.skip("unpruned, stock code of this transformers is no oracle for repeated rows")
    out = generate(model, short, **options)
    with gp.prune(model, PRUNER, policy):
        context = generate(model, inputs, **options)
    assert short.restore(out.sequences).equal(context.sequences)
    oracle = {} if mode in ("static", "drafts") else options  # it needs dynamic masks; the answers are the same
    with hide(model, hidden_columns(repeated(short.prompt, COPIES.get(mode, 1)))):
        wanted = generate(model, inputs, **oracle)
    if policy == "preserved":
        assert short.restore(out.sequences).equal(wanted.sequences)
    if mode != "drafts":
        assert relative_difference(out.logits, context.logits) < 1e-6
        assert equal_under(policy, out.logits[:1], wanted.logits[:1])
        assert policy != "preserved" or relative_difference(out.logits, wanted.logits) < TOLERANCE


@each_family
def test_nothing_is_changed_on_the_model_and_among_the_inputs(name):
    model = tiny_model(name)
    generate(model, tiny_inputs(model, PROMPTS))  # transformers leaves hooks of its own in the first forward
    inputs = tiny_inputs(model, PROMPTS)
    before, given = snapshot(model), copy.deepcopy(inputs)
    short = gp.prune_inputs(model, inputs, PRUNER)
    assert snapshot(model) == before
    assert inputs.keys() == given.keys()
    assert all(inputs[key].equal(value) for key, value in given.items())
    features = [x.clone() for x in short["mm_encoder_outputs"]["image"].pooler_output]
    generate(model, short, num_beams=2)
    again = gp.prune_inputs(model, inputs, PRUNER)["mm_encoder_outputs"]["image"].pooler_output
    assert all(a.equal(b) for a, b in zip(features, again, strict=True))


def labelled(inputs):
    """An answer's tokens, as in training. (The word after an image is predicted from the image's last token.)"""
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    return {**inputs, "labels": labels}


@each_family
@each_policy
def test_the_loss_is_the_oracles(name, policy):
    model = model_of(name)
    inputs = labelled(tiny_inputs(model, [(1, 5, 7), (1, 2, 6)]))
    short = gp.prune_inputs(model, inputs, PRUNER, policy)
    assert (short["labels"] != -100).sum() == (inputs["labels"] != -100).sum()
    with torch.no_grad():
        pruned = model(**short).loss
        with hide(model, hidden_columns(short.prompt)):
            wanted = model(**inputs).loss
    difference = relative_difference([pruned], [wanted])
    assert difference < TOLERANCE if policy == "preserved" else difference > 100 * TOLERANCE


def own_loop(model, inputs):
    """Long[B, 5]: greedy tokens without `generate`, the mask growing as the caller counts."""
    said, mask = [], inputs["attention_mask"]
    padded = not bool(mask.all())
    with torch.no_grad():
        out = model(**inputs)
        for _ in range(5):
            said.append(out.logits[:, -1:].argmax(-1))
            mask = torch.cat([mask, torch.ones_like(said[-1])], 1)
            out = model(
                input_ids=said[-1], attention_mask=mask if padded else None, past_key_values=out.past_key_values
            )
    return torch.cat(said, 1)


@each_family
@each_policy
def test_a_decode_loop_of_ones_own(name, policy):
    model = model_of(name)
    # Stock M-RoPE code makes ids of a whole mask for one new column, and fails: a row without padding needs none.
    inputs = tiny_inputs(model, PROMPTS if families()[name].position_axes == 1 else PROMPTS[1:2])
    short, said = gp.prune_inputs(model, inputs, PRUNER, policy), []
    with torch.no_grad():
        out = model(**short)
        for _ in range(5):
            said.append(out.logits[:, -1:].argmax(-1))
            step = gp.prune_inputs(model, {"input_ids": said[-1]}, PRUNER, policy, after=(short, out.past_key_values))
            out = model(**step)
    with gp.prune(model, PRUNER, policy):
        assert torch.cat(said, 1).equal(own_loop(model, inputs))
    with hide(model, hidden_columns(short.prompt)):
        assert policy != "preserved" or torch.cat(said, 1).equal(own_loop(model, inputs))


class TestWrappers:
    """Whatever calls the model: on one family each."""

    def test_a_peft_model(self):
        peft = pytest.importorskip("peft")
        model = tiny_model("llava")
        inputs = tiny_inputs(model, PROMPTS)
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        short = gp.prune_inputs(adapted, inputs, PRUNER)
        with hide(model, hidden_columns(short.prompt)):
            wanted = generate(adapted, inputs)
        with adapted.disable_adapter():
            plain = generate(adapted, gp.prune_inputs(adapted, inputs, PRUNER))
        got = generate(adapted, short)
        assert relative_difference(got.logits, wanted.logits) < TOLERANCE
        assert relative_difference(got.logits[:1], plain.logits[:1]) > CONTROL  # the adapter was at work

    def test_a_compiled_model(self):
        model = tiny_model("qwen2_5_vl")
        short = gp.prune_inputs(torch.compile(model, backend="eager"), tiny_inputs(model, PROMPTS), PRUNER)
        with torch.no_grad():
            wanted = model(**short).logits
            got = torch.compile(model, backend="eager")(**short).logits
        assert relative_difference([got], [wanted]) < TOLERANCE

    def test_gradients_reach_tower_projector_and_pixels(self):
        """They are the oracle's: of what was dropped, none."""
        model = tiny_model("llava")
        inputs = labelled(tiny_inputs(model, [(1, 5, 7), (1, 2, 6)]))
        names = ["model.multi_modal_projector.linear_1.weight", "model.vision_tower.encoder.layers.0.mlp.fc1.weight"]
        weights, found = dict(model.named_parameters()), []
        short = gp.prune_inputs(model, inputs, PRUNER)
        for hidden in (False, True):
            pixels = inputs["pixel_values"].clone().requires_grad_()
            given = {**inputs, "pixel_values": pixels}
            with hide(model, hidden_columns(short.prompt)) if hidden else contextlib.nullcontext():
                loss = model(**(given if hidden else gp.prune_inputs(model, given, PRUNER))).loss
            found.append(torch.autograd.grad(loss, [pixels, *(weights[name] for name in names)]))
        assert all(float(gradient.abs().max()) > 0 for gradient in found[0])
        assert relative_difference(found[0], found[1]) < TOLERANCE


class TestRefusals:
    @pytest.fixture(scope="class")
    @staticmethod
    def model():
        return tiny_model("llava")

    @pytest.fixture(scope="class")
    @staticmethod
    def inputs(model):
        return tiny_inputs(model, [(1, 5, 7)])

    def test_stages_between_layers(self, model, inputs):
        with pytest.raises(gp.Unservable, match=r"use `with gp\.prune"):
            gp.prune_inputs(model, inputs, gp.FastV(keep=0.6))

    def test_a_window_shorter_than_the_prompt(self):
        model = tiny_model("gemma3", window=12)
        inputs = tiny_inputs(model, [(1, 5, 7)])
        with pytest.raises(gp.Unservable, match="sliding window of 12"):
            gp.prune_inputs(model, inputs, PRUNER)
        short = gp.prune_inputs(model, inputs, PRUNER, window="tokens")
        with gp.prune(model, PRUNER, window="tokens"):
            wanted = generate(model, inputs)
        assert relative_difference(generate(model, short).logits, wanted.logits) < 1e-6

    def test_a_turn_that_does_not_begin_with_the_conversation(self, model, inputs):
        short = gp.prune_inputs(model, inputs, PRUNER)
        with torch.no_grad():
            cache = model(**short).past_key_values
        other = torch.full((1, inputs["input_ids"].shape[1] + 3), 7)
        turn = {"input_ids": other, "attention_mask": torch.ones_like(other)}
        with pytest.raises(gp.GroundPruneError, match="hold the conversation so far"):
            gp.prune_inputs(model, turn, PRUNER, after=(short, cache))

    def test_a_cache_that_was_cut_inside_of_the_images(self, model, inputs):
        short = gp.prune_inputs(model, inputs, PRUNER)
        with torch.no_grad():
            cache = model(**short).past_key_values
        cache.crop(-(cache.get_seq_length() - 6))
        with pytest.raises(gp.Unservable, match="cropped to 6 columns"):
            gp.prune_inputs(model, {"input_ids": torch.tensor([[5]])}, PRUNER, after=(short, cache))

    def test_inputs_that_tell_no_images(self, model, inputs):
        with pytest.raises(gp.Unservable, match="input_ids"):
            gp.prune_inputs(model, {"inputs_embeds": torch.zeros(1, 3, 64)}, PRUNER)
        with pytest.raises(gp.GroundPruneError, match="window"):
            gp.prune_inputs(model, inputs, PRUNER, window="columns")


def test_one_row_without_a_cache_is_not_taken_for_packed_sequences():
    """`generate` leaves out a mask of ones; without mask and cache stock code cuts a row where its ids have gaps."""
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    short = gp.prune_inputs(model, inputs, PRUNER)
    wanted = generate(model, short)
    assert relative_difference(generate(model, short, use_cache=False).logits, wanted.logits) < TOLERANCE
    ones = {**short, "attention_mask": torch.ones_like(short["attention_mask"])}
    assert relative_difference(generate(model, ones, use_cache=False).logits, wanted.logits) > CONTROL


@needs_chunks
@pytest.mark.parametrize("name", [name for name, family in families().items() if not family.bidirectional])
def test_prefill_in_chunks_is_exact_where_images_are_read_causally(name):
    model = model_of(name)
    short = gp.prune_inputs(model, tiny_inputs(model, PROMPTS), PRUNER)
    wanted = generate(model, short)
    assert relative_difference(generate(model, short, prefill_chunk_size=9).logits, wanted.logits) < TOLERANCE


def test_lengths_that_count_the_prompt_count_the_unpruned_one_inside_of_a_context():
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    length = inputs["input_ids"].shape[1]
    with gp.prune(model, PRUNER):
        wanted = generate(model, inputs, max_new_tokens=3).sequences
        for given in ({"max_length": length + 3}, {"generation_config": GenerationConfig(max_length=length + 3)}):
            assert model.generate(**inputs, **given, do_sample=False).equal(wanted)
        config = GenerationConfig(max_new_tokens=3, do_sample=False)
        assert model.generate(inputs.get("input_ids"), config, **without_ids(inputs)).equal(wanted)


def without_ids(inputs):
    return {name: value for name, value in inputs.items() if name != "input_ids"}
