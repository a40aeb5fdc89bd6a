"""What cannot work is refused before the LLM runs, with the reason."""

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from support.generating import generate, snapshot


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

    @pytest.mark.parametrize("name", ["gemma3", "paligemma"])
    def test_a_prefill_in_chunks_of_images_that_see_later_tokens(self, name):
        model = tiny_model(name)
        with gp.prune(model, gp.Spatial(keep=0.5)), pytest.raises(gp.Unservable, match="prefill_chunk_size"):
            generate(model, tiny_inputs(model, [(1, 5, 7)]), prefill_chunk_size=16)

    def test_a_prefill_in_chunks_between_stages(self, model, inputs):
        with gp.prune(model, gp.FastV(keep=0.6)), pytest.raises(gp.Unservable, match="prefill_chunk_size"):
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
        model(**inputs)  # at its first forward stock code puts hooks of its own on the tower, and leaves them there
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
