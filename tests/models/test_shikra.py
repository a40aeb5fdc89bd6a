"""Shikra against what its authors' code computes from the same files."""

import pytest
import torch
from transformers import LlavaImageProcessorPil

import groundprune as gp
from groundprune.boxes import Box, PaddedSquareFrame, make_codec
from groundprune.boxes.images import square
from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import chat_prompt, framed, prompt_for
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import family_of
from groundprune.models.shikra import ShikraProcessor
from support.closeness import assert_apart, assert_near
from support.originals import SHIKRA, keep_exactly

CASES = range(3)


def prompt(golden, case):
    return golden.expected["cases"][case]["prompt"].replace("<im_start><im_patch>*256<im_end>", "<image>")


class TestProcessor:
    def test_pixels_are_those_of_the_original(self, shikra):
        pixels = shikra.inputs("<image>")["pixel_values"][0]
        assert_near(pixels[:, ::4, ::4], shikra.tensors["pixel_values"], 1e-6)
        mean_std = torch.stack([pixels.mean((1, 2)), pixels.std((1, 2))])
        assert_near(mean_std, shikra.tensors["pixel_values_mean_std"])

    def test_the_frame_is_padded_before_with_the_same_white(self, shikra):
        seen = framed(shikra.processor, grounding_of(shikra.model), shikra.image)
        assert seen.tobytes() == square(shikra.image, (255, 255, 255), 224).tobytes()
        inputs = shikra.processor(images=seen, text="<image>", return_tensors="pt")
        assert inputs["pixel_values"].equal(shikra.inputs("<image>")["pixel_values"])

    def test_the_backend_that_was_loaded_does_not_change_the_pixels(self, shikra):
        """transformers prefers its torchvision backend where that is installed, which resizes to other pixels."""
        own = shikra.processor.image_processor
        foreign = LlavaImageProcessorPil(size=own.size, do_center_crop=False)
        processor = ShikraProcessor(foreign, shikra.processor.tokenizer)
        assert type(processor.image_processor) is type(own)
        inputs = processor(images=shikra.image, text="<image>", return_tensors="pt")
        assert inputs["pixel_values"].equal(shikra.inputs("<image>")["pixel_values"])

    @pytest.mark.parametrize("case", CASES)
    def test_ids_are_those_of_the_original(self, shikra, case):
        wanted = shikra.expected["cases"][case]
        ids = shikra.inputs(prompt(shikra, case))["input_ids"][0].tolist()
        assert ids == wanted["input_ids"]
        assert ids.index(shikra.model.config.image_token_id) == wanted["first_visual_position"]

    def test_the_familys_wordings_are_those_of_the_authors(self, shikra):
        grounding = grounding_of(shikra.model)
        assert prompt_for(shikra.processor, grounding, "rec", "man in red") == prompt(shikra, 1)
        assert prompt_for(shikra.processor, grounding, "vqa", "what is it?") == prompt(shikra, 2)

    def test_an_image_that_the_text_does_not_place_goes_in_front(self, shikra):
        assert " USER: <image> what is it? ASSISTANT:" in chat_prompt(shikra.processor, "what is it?")

    def test_a_conversation_is_refused(self, shikra):
        turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
        with pytest.raises(Exception, match="one user turn"):
            shikra.processor.apply_chat_template(turns)

    def test_words_never_become_special_tokens(self, shikra):
        ids = shikra.processor.ids("a <im_patch></s><im_end> b")
        assert ids.count(1) == 1
        assert not {2, 420, 421, 422} & set(ids)

    def test_images_without_marks_are_refused(self, shikra):
        with pytest.raises(gp.GroundPruneError, match="marks 0 images with <image>; 1 were given"):
            shikra.inputs("no mark")


class TestModel:
    def test_features(self, shikra):
        pixels = shikra.inputs("<image>")["pixel_values"]
        with torch.no_grad():
            output = shikra.model.model.get_image_features(pixels, output_hidden_states=True)
        assert_near(output.hidden_states[-2][0, 1:], shikra.tensors["image_features"])
        assert_near(output.pooler_output[0], shikra.tensors["projected"])

    @pytest.mark.parametrize("case", CASES)
    def test_logits(self, shikra, case):
        with torch.no_grad():
            logits = shikra.model(**shikra.inputs(prompt(shikra, case))).logits[0]
        assert_near(logits[-8:], shikra.tensors[f"c{case}_logits_last8"])
        assert_near(logits.double().sum(-1).float(), shikra.tensors[f"c{case}_logits_sum"])

    @pytest.mark.parametrize("case", CASES)
    def test_greedy(self, shikra, case):
        inputs = shikra.inputs(prompt(shikra, case))
        output = shikra.model.generate(**inputs, max_new_tokens=10)
        new = output[0, inputs["input_ids"].shape[1] :].tolist()
        assert new == shikra.expected["cases"][case]["greedy_ids"]

    def test_greedy_in_a_batch(self, shikra):
        inputs = shikra.inputs(*(prompt(shikra, case) for case in CASES))
        assert inputs["attention_mask"][0, 0] == 0
        output = shikra.model.generate(**inputs, max_new_tokens=10)
        assert output[:, inputs["input_ids"].shape[1] :].tolist() == shikra.expected["batch_greedy_ids"]

    def test_official_generation_settings(self, shikra):
        config = shikra.model.generation_config
        assert (config.max_new_tokens, config.do_sample, config.num_beams) == (1024, False, 1)
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)


class TestPruning:
    def test_cls_attention_reaches_the_pruner(self, shikra):
        pruner = keep_exactly([0])
        with gp.prune(shikra.model, pruner), torch.no_grad():
            shikra.model(**shikra.inputs(prompt(shikra, 0)))
        assert_near(pruner.seen.mean(0), shikra.tensors["cls_attn_selected_layer_mean"])
        # The golden file can tell the layers apart.
        assert_apart(pruner.seen.mean(0), shikra.tensors["cls_attn_last_layer_mean"], 1e-3)

    @pytest.mark.parametrize(("positions", "name"), [("preserved", "kept"), ("reassigned", "compact")])
    def test_logits_are_those_of_the_original_with_the_same_tokens_dropped(self, shikra, positions, name):
        kept = shikra.expected["pruned_keep"]
        with gp.prune(shikra.model, keep_exactly(kept), positions) as run, torch.no_grad():
            logits = shikra.model(**shikra.inputs(prompt(shikra, 0))).logits[0]
        assert_near(logits[-8:], shikra.tensors[f"c0_pruned_{name}_logits_last8"])
        assert run.kept[0].tolist() == kept
        wanted = shikra.expected["pruned_position_ids"]
        assert run.rows[0].position[0].tolist() == (wanted if name == "kept" else list(range(len(wanted))))

    def test_images_encoded_once_give_the_same(self, shikra):
        pruner = keep_exactly(shikra.expected["pruned_keep"])
        inputs = dict(shikra.inputs(prompt(shikra, 0)))
        encoded = gp.encode(shikra.model, inputs, [pruner])
        del inputs["pixel_values"]
        with gp.prune(shikra.model, pruner), torch.no_grad():
            logits = shikra.model(**inputs, mm_encoder_outputs=encoded.select([0])).logits[0]
        assert_near(logits[-8:], shikra.tensors["c0_pruned_kept_logits_last8"])

    def test_pruning_is_exact(self):
        model = tiny_model("shikra", side=24)
        found = gp.verify(model, tiny_inputs(model, [(1, 5, 7), (2, 2, 4), (1, 9, 3)]), gp.ClsVisual(keep=0.5))
        assert found.passed
        assert found.kept == [(288, 576), (576, 1152), (288, 576)]


class TestBoxes:
    def test_text_of_the_original(self, shikra):
        for case in shikra.expected["box_cases"]:
            unit = PaddedSquareFrame(*case["wh"]).to_unit(Box(*case["box"]))
            assert make_codec("shikra").encode(unit) == case["text"]

    def test_reads_what_the_original_reads(self, shikra):
        for text, groups in shikra.expected["extract_cases"]:
            alone = len(groups) == 1 and len(groups[0]) == 1
            found = make_codec("shikra").decode(text)
            box = Box(*groups[0][0]) if alone else None
            assert found == (box if box is not None and box.area > 0 else None), text


def test_a_published_folder_is_refused_with_the_command():
    with pytest.raises(gp.GroundPruneError, match="groundprune convert shikra --help"):
        gp.load(SHIKRA / "delta")


def test_the_family_needs_no_preparation(shikra):
    assert family_of(shikra.model.config).prepare_processor(shikra.processor) is shikra.processor
