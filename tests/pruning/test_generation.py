"""Pruning before the LLM against the masked oracle and against what it must not touch."""

import copy
from dataclasses import dataclass

import pytest
import torch
from transformers import DynamicCache, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from groundprune.families.tiny_parts import IMAGE
from groundprune.pruning.encode_once import EncodedImages
from groundprune.signals import TextEmbedder
from support.closeness import assert_near

PRUNERS = [gp.ClsVisual, gp.Random, gp.Spatial]
GREEDY = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", side=6)


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, [(1, 5, 7), (2, 2, 4), (1, 9, 3)])  # left padded, 36, 72 and 36 visual tokens


def generate(model, inputs, **options):
    # Without a cache a placeholder that the random model says would be taken for an image.
    return model.generate(**inputs, **{"max_new_tokens": 6, "suppress_tokens": [IMAGE], **GREEDY, **options})


def oracle(model, run, inputs, **options):
    with hide(model, hidden_columns(run.prompt)):
        return generate(model, inputs, **options)


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(
    ("options", "copies"),
    [
        ({}, 1),
        ({"num_beams": 3}, 3),
        ({"use_cache": False}, 1),
        ({"num_return_sequences": 2, "do_sample": True, "top_k": 20}, 2),
    ],
    ids=["greedy", "beams", "no cache", "samples"],
)
def test_every_way_to_generate_equals_the_masked_oracle(model, inputs, pruner, options, copies):
    torch.manual_seed(3)
    with gp.prune(model, pruner(keep=0.4)) as run:
        pruned = generate(model, inputs, **options)
    assert [len(k) for k in run.kept[::copies]] == [14, 29, 14]
    torch.manual_seed(3)
    wanted = oracle(model, run, inputs, **options)
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE
    torch.manual_seed(3)
    with gp.prune(model, pruner(keep=0.4), "reassigned"):
        control = generate(model, inputs, **options)
    assert relative_difference(control.logits[:1], wanted.logits[:1]) > 1e-2


@pytest.mark.parametrize("policy", ["preserved", "reassigned", "reassigned-image", "stretched"])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_keep_1_is_the_stock_model_bit_for_bit(model, inputs, pruner, policy):
    stock = generate(model, inputs)
    with gp.prune(model, pruner(keep=1.0), policy):
        whole = generate(model, inputs)
    assert all(a.equal(b) for a, b in zip(whole.logits, stock.logits, strict=True))


def test_hidden_states_at_all_retained_columns_equal_the_oracles(model, inputs):
    with torch.no_grad():
        with gp.prune(model, gp.ClsVisual(keep=0.5)) as run:
            pruned = model(**inputs).logits
        with hide(model, hidden_columns(run.prompt)):
            # A plain forward counts positions from the left edge, padding included; so does the pruned one.
            wanted = model(**inputs).logits
    for b, row in enumerate(run.rows):
        kept = pruned[b, -len(row.column) :]
        assert relative_difference([kept], [wanted[b, row.column]]) < TOLERANCE


def test_reassigned_is_what_code_does_that_renumbers(model):
    """The forks hand the kept embeddings to the LLM without position ids: consecutive ids, short cache."""
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with gp.prune(model, gp.Spatial(keep=0.5), "reassigned") as run:
        pruned = generate(model, inputs)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with torch.no_grad():
        features = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        embeds[0, run.layout[0].column] = features
        embeds = embeds[:, run.rows[0].column]
        for step in range(6):
            hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state[:, -1]
            logits = model.lm_head(hidden)
            assert relative_difference([pruned.logits[step]], [logits]) < TOLERANCE
            embeds = torch.cat([embeds, model.get_input_embeddings()(logits.argmax(-1))[:, None]], 1)


@pytest.mark.parametrize("policy", ["shifted:16", "permuted:0"])
def test_positions_can_change_without_pruning(model, inputs, policy):
    stock = generate(model, inputs)
    with gp.prune(model, gp.Spatial(keep=1), policy) as run:
        moved = generate(model, inputs)
    assert all(len(kept) == len(layout) for kept, layout in zip(run.kept, run.layout, strict=True))
    assert relative_difference(moved.logits[:1], stock.logits[:1]) > 1e-3


def test_a_common_shift_of_all_ids_changes_nothing_since_rope_is_relative(model):
    """Where the image stands first, shifting it and all that follows moves every id: RoPE cannot tell."""
    inputs = tiny_inputs(model, [(1, 0, 6)])
    stock = generate(model, inputs)
    with gp.prune(model, gp.Spatial(keep=1), "shifted:16"):
        moved = generate(model, inputs)
    assert relative_difference(moved.logits, stock.logits) < 1e-4


def test_a_loop_of_ones_own_equals_generate(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned") as run, torch.no_grad():
        wanted = generate(model, inputs).sequences[:, inputs["input_ids"].shape[1] :]
        mask = inputs["attention_mask"]
        # Positions as `generate` derives them; a plain forward would count the padding.
        out = model(**inputs, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        for step in range(6):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            assert token[:, 0].equal(wanted[:, step])
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            out = model(input_ids=token, attention_mask=mask, past_key_values=out.past_key_values)
    assert len(run.rows) == 3


def test_a_draft_model_changes_nothing(model):
    """Assisted decoding: several tokens per step, and a cache that is cropped behind the prompt."""
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        drafted = model.generate(**inputs, prompt_lookup_num_tokens=3, max_new_tokens=8, do_sample=False)
    assert drafted.equal(oracle(model, run, inputs, max_new_tokens=8).sequences)


def test_static_cache_equals_dynamic_cache(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4)):
        dynamic = generate(model, inputs)
        static = generate(model, inputs, cache_implementation="static", disable_compile=True)
    assert static.sequences.equal(dynamic.sequences)
    assert relative_difference(static.logits, dynamic.logits) < TOLERANCE


def test_a_second_turn_on_the_kept_cache_equals_the_oracle(model):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    more = torch.tensor([[11, 12, 13]])

    def two_turns():
        cache = DynamicCache(config=model.config.get_text_config())
        first = generate(model, inputs, past_key_values=cache).sequences
        ids = torch.cat([first, more], 1)
        follow_up = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return generate(model, follow_up, past_key_values=cache)

    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        pruned = two_turns()
    with hide(model, hidden_columns(run.prompt)):
        wanted = two_turns()
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE


def test_a_tuple_output_keeps_the_state_too(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
        step = {"input_ids": torch.tensor([[5], [6], [7]])}
        wanted = model(**step, past_key_values=model(**inputs).past_key_values).logits
        cache = model(**inputs, return_dict=False)[1]
        assert model(**step, past_key_values=cache).logits.equal(wanted)


def test_a_copy_of_a_cache_goes_on_as_the_cache_does(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
        cache = model(**inputs).past_key_values
        step = {"input_ids": torch.tensor([[5], [6], [7]])}
        copied = copy.deepcopy(cache)
        assert model(**step, past_key_values=copied).logits.equal(model(**step, past_key_values=cache).logits)


def test_two_conversations_in_one_context_do_not_mix(model):
    first, second = tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(2, 3, 2)], seed=9)

    def alone(inputs):
        with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
            out = model(**inputs)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            return model(input_ids=token, past_key_values=out.past_key_values).logits

    wanted = alone(first), alone(second)
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
        outs = [model(**first), model(**second)]
        tokens = [out.logits[:, -1].argmax(-1, keepdim=True) for out in outs]
        got = [
            model(input_ids=t, past_key_values=o.past_key_values).logits for t, o in zip(tokens, outs, strict=True)
        ]
    assert got[0].equal(wanted[0])
    assert got[1].equal(wanted[1])


def test_a_cache_that_is_reset_forgets_what_was_pruned(model):
    image, words = tiny_inputs(model, [(1, 5, 7)]), {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    with torch.no_grad(), gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"):
        model(**image, past_key_values=cache)
        cache.reset()
        out = model(**words, past_key_values=cache)
        again = model(input_ids=torch.tensor([[9]]), past_key_values=out.past_key_values).logits
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[:, -1:]
    assert relative_difference([again], [wanted]) < TOLERANCE


def test_prompts_without_an_image_are_left_alone(model):
    words = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    stock = generate(model, words)
    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        assert generate(model, words).sequences.equal(stock.sequences)
    with pytest.raises(gp.GroundPruneError, match="nothing was pruned"):
        _ = run.kept


def test_a_batch_may_mix_rows_with_and_without_an_image(model):
    inputs = tiny_inputs(model, [(1, 5, 7), (0, 0, 6)])
    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        pruned = generate(model, inputs)
    assert [len(k) for k in run.kept] == [14, 0]
    assert pruned.sequences.equal(oracle(model, run, inputs).sequences)


def test_the_loss_is_that_of_the_labels_that_stayed(model):
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    # An answer's tokens, as in training. (The word right after an image is predicted from the image's last token,
    # which pruning may drop.)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    with torch.no_grad():
        with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
            pruned = model(**inputs, labels=labels).loss
        with hide(model, hidden_columns(run.prompt)):
            wanted = model(**inputs, labels=labels).loss
    assert_near(pruned, wanted)


@pytest.mark.parametrize("first_images", [1, 0])
@pytest.mark.parametrize("policy", ["preserved", "reassigned"])
def test_an_image_in_a_later_turn_equals_the_oracle(model, policy, first_images):
    first = tiny_inputs(model, [(first_images, 5, 7), (first_images, 2, 4)])
    second = tiny_inputs(model, [(1, 3, 4), (1, 3, 4)], seed=5)
    if not first_images:
        del first["pixel_values"]

    def two_turns():
        cache = DynamicCache(config=model.config.get_text_config())
        said = generate(model, first, past_key_values=cache, max_new_tokens=4).sequences
        ids = torch.cat([said, second["input_ids"]], 1)
        grown = torch.ones_like(ids)
        grown[:, : first["input_ids"].shape[1]] = first["attention_mask"]
        turn = {"input_ids": ids, "attention_mask": grown, "pixel_values": second["pixel_values"]}
        return generate(model, turn, past_key_values=cache)

    with gp.prune(model, gp.ClsVisual(keep=0.4), policy) as run:
        pruned = two_turns()
    with hide(model, hidden_columns(run.prompt)):
        wanted = two_turns()
    difference = relative_difference(pruned.logits, wanted.logits)
    assert difference < TOLERANCE if policy == "preserved" else difference > 1e-2
    assert [len(kept) for kept in run.kept] == [14, 14]
    whole = two_turns()
    assert relative_difference(whole.logits[:1], wanted.logits[:1]) > 1e-2  # the second image was pruned


def test_a_later_image_in_a_loop_of_ones_own_equals_generate(model):
    first, second = tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(1, 3, 4)], seed=5)
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
        cache = model(**first).past_key_values
        own = model(input_ids=second["input_ids"], pixel_values=second["pixel_values"], past_key_values=cache).logits
        cache = model(**first).past_key_values
        ids = torch.cat([first["input_ids"], second["input_ids"]], 1)
        turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": second["pixel_values"]}
        wanted = generate(model, turn, past_key_values=cache, max_new_tokens=1).logits
    assert relative_difference([own[:, -1]], wanted) < TOLERANCE


def snapshot(model):
    return (
        dict(ALL_ATTENTION_FUNCTIONS._local_mapping),
        {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        sorted(vars(model)),
        sorted(vars(model.model)),
    )


def test_leaving_the_context_leaves_nothing_behind(model, inputs):
    generate(model, inputs)  # transformers leaves hooks of its own in the first forward
    before = snapshot(model)
    with gp.prune(model, gp.ClsVisual(keep=0.4)):
        assert snapshot(model) != before
        generate(model, inputs)
    assert snapshot(model) == before


def test_leaving_through_an_exception_in_generate_leaves_nothing_behind(model, inputs):
    @dataclass(frozen=True)
    class Failing(gp.Pruner):
        needs = gp.ClsVisual.needs

        def score(self, signals, layout, stage):
            raise RuntimeError("scoring failed")

    stock, before = generate(model, inputs), snapshot(model)
    with pytest.raises(RuntimeError, match="scoring failed"), gp.prune(model, Failing(keep=0.4)):
        generate(model, inputs)
    assert snapshot(model) == before
    assert generate(model, inputs).sequences.equal(stock.sequences)


def test_the_callers_inputs_are_not_changed(model, inputs):
    encoded = gp.encode(model, inputs, [gp.ClsVisual(keep=0.4)]).select(range(3))
    given = {**{k: v for k, v in inputs.items() if k != "pixel_values"}, "mm_encoder_outputs": encoded}
    before = copy.deepcopy(given)
    with gp.prune(model, gp.ClsVisual(keep=0.4)):
        generate(model, given)
    assert all(given[k].equal(before[k]) for k in ("input_ids", "attention_mask"))
    for a, b in zip(encoded["image"].pooler_output, before["mm_encoder_outputs"]["image"].pooler_output, strict=True):
        assert a.equal(b)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_images_encoded_once_give_what_pixels_give(model, inputs, pruner):
    with gp.prune(model, pruner(keep=0.4)):
        wanted = generate(model, inputs, num_beams=2)
    calls = []
    handle = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    # Rows of one, two and one image.
    first = {"input_ids": inputs["input_ids"][:1], "pixel_values": inputs["pixel_values"][:1]}
    rest = {"input_ids": inputs["input_ids"][1:], "pixel_values": inputs["pixel_values"][1:]}
    halves = [first, rest]
    encoded = EncodedImages.join([gp.encode(model, half, [p(keep=0.4) for p in PRUNERS]) for half in halves])
    words = {k: v for k, v in inputs.items() if k != "pixel_values"}
    with gp.prune(model, pruner(keep=0.4)):
        got = generate(model, {**words, "mm_encoder_outputs": encoded.select(range(3))}, num_beams=2)
    handle.remove()
    assert len(calls) == 2
    assert got.sequences.equal(wanted.sequences)


class Words(TextEmbedder):
    """A text tower whose embedding of a text is drawn from its length."""

    def text(self, text):
        return torch.randn(1, 8, generator=torch.Generator().manual_seed(len(text)))

    def patches(self, hidden):
        return hidden @ torch.randn(hidden.shape[-1], 8, generator=torch.Generator().manual_seed(0))


def test_each_row_is_pruned_by_its_own_text_also_under_beams(model, inputs):
    texts = ["a", "bcd", "efghij"]
    with gp.prune(model, gp.TextVisual(keep=0.4), text=texts, text_tower=Words()) as run:
        generate(model, inputs)
        alone = run.kept
        pruned = generate(model, inputs, num_beams=3)
        assert all(kept.equal(alone[b // 3]) for b, kept in enumerate(run.kept))
    assert pruned.sequences.equal(oracle(model, run, inputs, num_beams=3).sequences)
    with gp.prune(model, gp.TextVisual(keep=0.4), text=texts[::-1], text_tower=Words()) as run:
        generate(model, inputs)
    assert not run.kept[0].equal(alone[0])


def test_merging_in_each_space_feeds_the_mixed_features(model):
    """A pruner that doubles the kept features: in the projected space the LLM reads them doubled."""

    @dataclass(frozen=True)
    class Doubling(gp.Pruner):
        space: str = "projected"
        needs = frozenset({gp.Need("tower_hidden")})

        def select(self, signals, layout, stage):
            kept = torch.arange(0, len(layout), 2)
            weight = torch.zeros(len(kept), len(layout))
            weight[torch.arange(len(kept)), kept] = 2.0
            return gp.Selection(kept, gp.Merge(weight, self.space))

    inputs = tiny_inputs(model, [(1, 5, 7)])
    plain = model.get_image_features(pixel_values=inputs["pixel_values"])
    hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
    wanted = {
        "projected": 2 * plain.pooler_output[0][::2],
        "tower": model.model.multi_modal_projector(2 * hidden[::2]),
    }
    for space, features in wanted.items():
        with gp.prune(model, Doubling(keep=0.5, space=space)) as run:
            generate(model, inputs)
        assert_near(run.rows[0].features, features)


class TestRefusals:
    """What cannot work is refused before the LLM runs, with the reason."""

    def test_a_four_dimensional_mask(self, model, inputs):
        mask = torch.zeros(3, 1, 8, 8)
        with gp.prune(model, gp.Spatial(keep=0.5)), pytest.raises(gp.Unservable, match="2-D attention mask"):
            model(**{**inputs, "attention_mask": mask})

    def test_embeddings_without_ids(self, model, inputs):
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        rest = {k: v for k, v in inputs.items() if k != "input_ids"}
        with gp.prune(model, gp.Spatial(keep=0.5)), pytest.raises(gp.Unservable, match="input_ids"):
            model(**rest, inputs_embeds=embeds)

    def test_embeddings_alone(self, model):
        embeds = model.get_input_embeddings()(torch.tensor([[5, 6, 7]]))
        with gp.prune(model, gp.Spatial(keep=0.5)), pytest.raises(gp.Unservable, match="input_ids"):
            model(inputs_embeds=embeds)

    def test_a_mask_over_image_tokens(self, model, inputs):
        mask = inputs["attention_mask"].clone()
        mask[1, 10:20] = 0
        with gp.prune(model, gp.Spatial(keep=1)), pytest.raises(gp.Unservable, match="hides image placeholders"):
            model(**{**inputs, "attention_mask": mask})

    def test_right_padding_in_generate(self, model, inputs):
        flipped = {
            **inputs,
            "attention_mask": inputs["attention_mask"].flip(1),
            "input_ids": inputs["input_ids"].flip(1),
        }
        with gp.prune(model, gp.Spatial(keep=0.5)), pytest.raises(gp.Unservable, match="padding_side"):
            generate(model, flipped)

    def test_a_cache_that_was_cut_inside_of_the_prompt(self, model):
        with gp.prune(model, gp.Spatial(keep=0.5)), torch.no_grad():
            cache = model(**tiny_inputs(model, [(1, 5, 7)])).past_key_values
            cache.crop(5 - cache.get_seq_length())
            with pytest.raises(gp.Unservable, match="cropped to 5 columns"):
                model(input_ids=torch.tensor([[5, 6]]), past_key_values=cache)

    def test_a_cache_whose_rows_were_selected(self, model, inputs):
        with gp.prune(model, gp.Spatial(keep=0.5)), torch.no_grad():
            cache = model(**inputs).past_key_values
            cache.batch_select_indices(torch.tensor([1]))
            with pytest.raises(gp.Unservable, match="3 pruned rows, and is used with 1"):
                model(input_ids=torch.tensor([[5]]), past_key_values=cache)

    def test_a_prefill_in_chunks(self, model, inputs):
        with gp.prune(model, gp.Spatial(keep=0.5)), pytest.raises(gp.Unservable, match="prefill_chunk_size"):
            generate(model, inputs, prefill_chunk_size=16)

    def test_the_base_model(self, model):
        with pytest.raises(gp.GroundPruneError, match="the whole model"), gp.prune(model.model, gp.Spatial(keep=0.5)):
            pass

    def test_text_for_the_wrong_number_of_rows(self, model, inputs):
        with gp.prune(model, gp.Spatial(keep=0.5), text=["a"]), pytest.raises(gp.GroundPruneError, match="3 rows, 1"):
            generate(model, inputs)

    def test_placeholders_that_are_no_multiple_of_an_image(self, model, inputs):
        short = {**inputs, "input_ids": inputs["input_ids"].clone()}
        short["input_ids"][0, inputs["input_ids"][0] == model.config.image_token_id] = 5
        short["input_ids"][0, :5] = model.config.image_token_id
        with (
            gp.prune(model, gp.Spatial(keep=0.5)),
            pytest.raises(
                gp.GroundPruneError, match="which no whole number of images fills: 5 are left for 36 features"
            ),
        ):
            generate(model, short)

    def test_a_context_inside_of_a_context(self, model, inputs):
        before = snapshot(model)
        with gp.prune(model, gp.Spatial(keep=0.5)):
            with pytest.raises(gp.GroundPruneError, match="already"), gp.prune(model, gp.Random(keep=0.5)):
                pass
            with pytest.raises(gp.GroundPruneError, match="already"):
                gp.verify(model, inputs, gp.Spatial(keep=0.5))
        assert snapshot(model) == before

    def test_something_that_is_no_pruner(self, model):
        with pytest.raises(gp.GroundPruneError, match="must be a Pruner"), gp.prune(model, "cls-visual"):
            pass
