"""MiniGPT-v2 against what its authors' code computes from the same files."""

import pytest
import torch

import groundprune as gp
from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import framed, prompt_for
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import family_of
from support.closeness import assert_near
from support.originals import keep_exactly

PROMPTS = range(2)


def prompt(golden, i):
    return golden.expected["prompts"][i]


class TestProcessor:
    def test_pixels_are_those_of_the_original(self, minigpt):
        step = minigpt.expected["config"]["px_step"]
        pixels = minigpt.inputs("<ImageHere>")["pixel_values"][0]
        assert pixels.shape == (3, 112, 112)
        assert_near(pixels[:, ::step, ::step], minigpt.tensors["pixel_values_sub"], 1e-6)
        assert framed(minigpt.processor, grounding_of(minigpt.model), minigpt.image) is minigpt.image

    @pytest.mark.parametrize("i", PROMPTS)
    def test_ids_are_those_of_the_original(self, minigpt, i):
        ids = minigpt.inputs(prompt(minigpt, i))["input_ids"][0].tolist()
        before, after = minigpt.expected["ids_before"][i], minigpt.expected["ids_after"][i]
        assert ids == [*before, *[minigpt.model.config.image_token_id] * 16, *after]
        assert ids[:3] == [1, 1, before[2]]
        assert minigpt.processor.ids(prompt(minigpt, i).removeprefix("<s>")) == ids

    @pytest.mark.parametrize(("i", "kind", "text"), [(0, "rec", "man in red"), (1, "vqa", "what is it?")])
    def test_the_familys_wordings_are_those_of_the_authors(self, minigpt, i, kind, text):
        assert prompt_for(minigpt.processor, grounding_of(minigpt.model), kind, text) == prompt(minigpt, i)

    def test_a_chat_tokenised_at_once_gives_the_same_ids(self, minigpt):
        question = {"type": "text", "text": minigpt.expected["questions"][0]}
        chat = [{"role": "user", "content": [{"type": "image", "image": minigpt.image}, question]}]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        found = minigpt.processor.apply_chat_template(chat, **options)
        wanted = minigpt.inputs(prompt(minigpt, 0))
        assert {name: value.tolist() for name, value in found.items()} == {
            name: value.tolist() for name, value in wanted.items()
        }

    def test_words_never_become_special_tokens(self, minigpt):
        with pytest.raises(gp.GroundPruneError, match="stands for an image"):
            prompt_for(minigpt.processor, grounding_of(minigpt.model), "rec", "a <ImageHere>")
        assert not {2, 420} & set(minigpt.processor.ids("a </s> b"))


class TestModel:
    def test_tower_and_projector(self, minigpt):
        pixels = minigpt.inputs("<ImageHere>")["pixel_values"]
        with torch.no_grad():
            output = minigpt.model.model.get_image_features(pixels, output_hidden_states=True)
        assert_near(output.hidden_states[-1][0], minigpt.tensors["vit_raw"])
        assert_near(output.pooler_output[0], minigpt.tensors["projected"])

    def test_position_embeddings_are_stretched_as_in_the_original(self, minigpt):
        found = minigpt.model.model.vision_tower.embeddings.position_embedding[0]
        assert_near(found, minigpt.tensors["pos_embed_interpolated_sub"], 1e-6)

    @pytest.mark.parametrize("i", PROMPTS)
    def test_logits(self, minigpt, i):
        with torch.no_grad():
            logits = minigpt.model(**minigpt.inputs(prompt(minigpt, i))).logits[0]
        assert_near(logits[-8:, :420], minigpt.tensors[f"p{i}_logits_last8"])
        assert_near(logits[:, :420].double().sum(-1).float(), minigpt.tensors[f"p{i}_logits_sum"])
        assert (logits[:, 420] == 0).all()

    @pytest.mark.parametrize("i", PROMPTS)
    def test_greedy(self, minigpt, i):
        inputs = minigpt.inputs(prompt(minigpt, i))
        output = minigpt.model.generate(**inputs, max_new_tokens=10)
        assert output[0, inputs["input_ids"].shape[1] :].tolist() == minigpt.expected["greedy_ids"][i][1:]

    def test_greedy_in_a_batch(self, minigpt):
        inputs = minigpt.inputs(*(prompt(minigpt, i) for i in PROMPTS))
        assert inputs["attention_mask"][0, 0] == 0
        output = minigpt.model.generate(**inputs, max_new_tokens=10)
        wanted = [ids[1:] for ids in minigpt.expected["greedy_ids"]]
        assert output[:, inputs["input_ids"].shape[1] :].tolist() == wanted

    def test_the_image_token_is_never_an_answer(self, minigpt):
        config = minigpt.model.generation_config
        assert config.suppress_tokens == [minigpt.model.config.image_token_id]
        assert (config.max_new_tokens, config.do_sample, config.num_beams) == (20, False, 1)


class TestPruning:
    def test_cls_attention_is_the_mean_over_each_strip(self, minigpt):
        pruner = keep_exactly([0])
        with gp.prune(minigpt.model, pruner), torch.no_grad():
            minigpt.model(**minigpt.inputs(prompt(minigpt, 0)))
        assert_near(pruner.seen.mean(0), minigpt.tensors["cls_attn_mean_grouped4_mean"])
        per_head = minigpt.tensors["cls_attn_per_head"]
        assert_near(pruner.seen, per_head.unflatten(1, (-1, 4)).mean(-1))

    @pytest.mark.parametrize(("positions", "name"), [("preserved", "kept"), ("reassigned", "compact")])
    def test_logits_are_those_of_the_original_with_the_same_tokens_dropped(self, minigpt, positions, name):
        kept = minigpt.expected["pruned_keep"]
        with gp.prune(minigpt.model, keep_exactly(kept), positions) as run, torch.no_grad():
            logits = minigpt.model(**minigpt.inputs(prompt(minigpt, 0))).logits[0]
        assert_near(logits[-8:, :420], minigpt.tensors[f"p0_pruned_{name}_logits_last8"])
        assert run.kept[0].tolist() == kept
        wanted = minigpt.expected["pruned_position_ids"]
        assert run.rows[0].position[0].tolist() == (wanted if name == "kept" else list(range(len(wanted))))

    def test_a_token_lies_where_its_strip_of_patches_lies(self):
        model = tiny_model("minigpt-v2", side=8)
        inputs = tiny_inputs(model, [(1, 2, 2)])
        with gp.prune(model, keep_exactly([0])) as run, torch.no_grad():
            model(**inputs)
        layout = run.layout[0]
        assert layout.grid(layout.groups()[0]) == (8, 2)
        states = torch.zeros(1, 65, 32)
        states[0, 1 + 5 * 8 + 6] = torch.randn(32)  # the patch in row 5, column 6
        features = model.model.multi_modal_projector(states[:, 1:])[0]
        (moved,) = (features - model.model.multi_modal_projector.linear.bias).abs().sum(-1).nonzero()[:, 0].tolist()
        assert (layout.row[moved], layout.col[moved]) == (5, 6 // 4)
        assert (
            family_of(model.config).to_tokens(model.model, states, "image", {})[0].abs().sum(-1).nonzero().item()
            == moved
        )

    def test_pruning_is_exact(self):
        model = tiny_model("minigpt-v2", side=48)
        found = gp.verify(model, tiny_inputs(model, [(1, 5, 7), (2, 2, 4), (1, 9, 3)]), gp.ClsVisual(keep=0.5))
        assert found.passed
        assert found.kept == [(288, 576), (576, 1152), (288, 576)]

    def test_what_the_tower_cannot_give_is_refused(self, minigpt):
        pruner = gp.TextVisual(keep=0.5)
        with (
            pytest.raises(gp.Unservable, match="needs a CLIP vision tower"),
            gp.prune(minigpt.model, pruner, text=["a"]),
        ):
            pass

    def test_merging_in_the_space_of_the_tower_is_refused(self, minigpt):
        with pytest.raises(gp.Unservable, match="joins several patches into a token"):
            family_of(minigpt.model.config).project(minigpt.model.model, torch.zeros(1, 64))
