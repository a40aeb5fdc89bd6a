"""What lmms-eval asks, without lmms-eval: options, conversations, batches in every family."""

import pytest
import torch
from PIL import Image

import groundprune as gp
from groundprune.evaluation.generating import How
from groundprune.integrations.lmms.answering import Answerer
from groundprune.integrations.lmms.arguments import Arguments
from groundprune.integrations.lmms.decoding import MAX_NEW_TOKENS, Decoding
from groundprune.integrations.lmms.messages import of_context, of_messages
from groundprune.pruning.context import prune
from groundprune.tokens.positions import parse_policy
from support.checkpoints import SERVED, save_tiny
from support.engines import photo

ONE_IMAGE = {"paligemma"}  # its processor takes no prompt without an image
STEPS = 6


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (None, {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "num_beams": 1}),
        ({"temperature": 0, "top_p": 1.0, "do_sample": True}, {"do_sample": False}),
        ({"temperature": 0.7, "top_p": 0.9}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}),
        ({"temperature": 0.7, "do_sample": False}, {"do_sample": False}),
        ({"num_beams": 3, "max_new_tokens": 5, "top_p": None}, {"num_beams": 3, "max_new_tokens": 5}),
    ],
)
def test_options_of_a_task(given, options):
    found = Decoding.of(given).options
    assert found == {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "num_beams": 1, **options}


def test_what_generate_does_not_know_is_left_out_by_name():
    found = Decoding.of({"image_aspect_ratio": "pad", "max_gen_toks": 3, "repetition_penalty": 1.1})
    assert found.ignored == ("image_aspect_ratio", "max_gen_toks")
    assert found.options["repetition_penalty"] == 1.1


def test_an_answer_ends_before_the_first_of_several_ends():
    assert Decoding.of({"until": ["\n\n", "USER:"]}).answer(" a b USER: c\n\nd") == "a b"
    with pytest.raises(gp.GroundPruneError, match="until must be text"):
        Decoding.of({"until": 3})


def test_images_go_to_their_marks_and_before_the_text_without():
    first, second = photo(0), photo(1)
    parts = of_context("a <image> b <image>?", [first, second]).messages[0]["content"]
    kinds = [(part["type"], part.get("text")) for part in parts]
    assert kinds == [("text", "a "), ("image", None), ("text", " b "), ("image", None), ("text", "?")]
    talk = of_context("what is <image 1>", [first, second])
    assert [part["type"] for part in talk.messages[0]["content"]] == ["image", "image", "text"]
    assert [image.tobytes() for image in talk.images] == [first.tobytes(), second.tobytes()]


def test_messages_keep_their_turns_and_the_last_question_is_what_pruners_read():
    turns = [("user", "what is it", [photo(0)]), ("assistant", "a cup", []), ("user", "which colour", [])]
    talk = of_messages(
        {"role": role, "content": [*({"type": "image", "url": x} for x in images), {"type": "text", "text": text}]}
        for role, text, images in turns
    )
    assert [message["role"] for message in talk.messages] == ["user", "assistant", "user"]
    assert talk.text == "which colour"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "audio", "url": {"array": []}}, "not a dict as audio"),
        ({"type": "video", "url": "a.mp4", "start_time": 1.0}, "a piece of a video"),
        ({"type": "image", "url": "no/such.png"}, "no such file"),
    ],
)
def test_media_that_are_not_read_are_refused(part, said):
    with pytest.raises(gp.GroundPruneError, match=said):
        of_messages([{"role": "user", "content": [part]}])


def test_several_processes_take_a_device_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Arguments.of({"device": "cuda"}).placement == {"device": "cuda:1"}
    assert Arguments.of({"device": "cpu"}).placement == {"device": "cpu"}
    with pytest.raises(gp.GroundPruneError, match="one process"):
        _ = Arguments.of({"device_map": "auto"}).placement
    with pytest.raises(gp.GroundPruneError, match="batch_size must be a whole number"):
        Arguments.of({"batch_size": "auto"})


@pytest.mark.parametrize("family", SERVED)
def test_a_batch_of_two_images_one_and_none_says_what_each_says_alone(family, tmp_path):
    model, processor = gp.load(save_tiny(family, tmp_path))
    pruner = gp.Random(keep=0.5)
    answerer = Answerer(model, processor, How(pruner, parse_policy("preserved")))
    visuals = [[photo(0, 60, 40), photo(1, 32, 56)], [photo(2)], [photo(1, 32, 56), photo(0, 60, 40)], [photo(2)], []]
    talks = [of_context("the red circle", images) for images in visuals[: -1 if family in ONE_IMAGE else None]]
    pad = processor.tokenizer.pad_token_id  # a word like any other to a random model
    decoding = Decoding.of({"max_new_tokens": STEPS, "min_new_tokens": STEPS, "suppress_tokens": [pad]})
    asked = [answerer.asked(talk, decoding, 0) for talk in talks]
    said = answerer.answers(asked, 8, lambda rows: None)
    for request, found in zip(asked, said, strict=True):
        media = {"images": [request.conversation.images]} if request.conversation.images else {}
        inputs = processor(text=[request.prompt], return_tensors="pt", **media)
        inputs.pop("labels", None)
        with prune(model, pruner), torch.inference_mode():
            output = model.generate(**inputs, **decoding.options)
        expected = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert found.text == expected.strip()
        assert found.new == STEPS
        assert bool(media) == (found.kept < found.visual)
    assert said[1] == said[3]


def test_a_family_without_videos_says_which_have_them(tmp_path):
    model, processor = gp.load(save_tiny("llava", tmp_path))
    answerer = Answerer(model, processor, None)
    with pytest.raises(gp.Unservable, match=r"llava takes no videos.*llava_onevision, qwen2_5_vl"):
        answerer.asked(of_context("the red circle", ["a.mp4"]), Decoding.of(None), 0)
    with pytest.raises(gp.GroundPruneError, match="the text holds '<image>'"):
        answerer.asked(of_context("the <image> circle", []), Decoding.of(None), 0)


def test_a_checkpoint_without_a_template_takes_one_turn(tmp_path):
    model, processor = gp.load(save_tiny("llava", tmp_path))
    processor.chat_template = None
    answerer = Answerer(model, processor, None)
    two = of_context("the red circle", [Image.new("RGB", (8, 8))] * 2)
    assert answerer.asked(two, Decoding.of(None), 0).prompt == "USER: <image><image>\nthe red circle ASSISTANT:"
    twice = of_messages([{"role": "user", "content": "the"}, {"role": "user", "content": "red"}])
    with pytest.raises(gp.GroundPruneError, match="no chat template"):
        answerer.asked(twice, Decoding.of(None), 0)
