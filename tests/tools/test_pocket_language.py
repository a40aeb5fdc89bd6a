"""Words: box language, vocabulary, chat template."""

import numpy as np
import pytest

from groundprune.evaluation.scoring import Scorer
from groundprune.families.grounding import Grounding
from groundprune.pocket.questions import draw_question
from groundprune.pocket.samples import SPLITS, eval_samples
from groundprune.pocket.scenes import IMAGE_SIZE, make_scene
from tools.pocket_training.export import GROUNDING, make_processor
from tools.pocket_training.packing import PREFIX_BUCKETS, draw_prefix, turn
from tools.pocket_training.prefixes import LLAVA_SYSTEM, draw_history, draw_system
from tools.pocket_training.prompts import before_image, request
from tools.pocket_training.vocabulary import (
    LM_IDS,
    UNK,
    box_text,
    clip_ids,
    lm_ids,
    make_clip_tokenizer,
    make_lm_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_lm_tokenizer()


def test_every_box_survives_the_tokenizer(tokenizer):
    rng, reader = np.random.default_rng(0), Scorer(Grounding(**GROUNDING)).reader
    for first, second in rng.integers(0, IMAGE_SIZE - 3, (300, 2, 2)):
        box = [*np.minimum(first, second), *np.maximum(first, second) + 4]
        text = box_text(tuple(int(edge) for edge in box))
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == 4
        assert tokenizer.decode(ids) == text
        read = reader.read(text, IMAGE_SIZE, IMAGE_SIZE)
        assert np.abs(np.array(list(read)) - box).max() <= IMAGE_SIZE / 100


def test_nothing_that_is_generated_is_unknown(tokenizer):
    for seed in range(300):
        scene, rng = make_scene(seed), np.random.default_rng(seed)
        for kind in ("rec", "vqa") * 3:
            question = draw_question(rng, scene.objects, kind)
            if question is None:
                continue
            asked, answered = turn(question)
            assert LM_IDS[UNK] not in asked + answered
            text = f"{request(kind, question.text)} assistant:"
            assert tokenizer(text, add_special_tokens=False).input_ids == asked
        for length in PREFIX_BUCKETS:
            prefix = draw_prefix(rng, length)
            assert len(prefix) <= length
            assert LM_IDS[UNK] not in prefix
    assert LM_IDS[UNK] not in lm_ids(LLAVA_SYSTEM)


@pytest.mark.parametrize("split", SPLITS)
def test_novel_questions_use_trained_words_only(tokenizer, split):
    clip_tokenizer = make_clip_tokenizer()
    for sample in eval_samples(20, 20, 0, split):
        assert tokenizer.unk_token_id not in tokenizer(sample.text).input_ids
        assert clip_tokenizer(sample.text).input_ids == clip_ids(sample.text)


def test_capitals_marks_and_spelling_do_not_matter(tokenizer):
    plain = tokenizer("what color is the large star").input_ids
    assert tokenizer("What colour is the LARGE star?").input_ids == plain


def test_the_template_says_what_training_said():
    processor, rng = make_processor(), np.random.default_rng(0)
    system, history = draw_system(rng), draw_history(rng, 2)
    messages = [{"role": "system", "content": [{"type": "text", "text": system}]}]
    for asked, answered in history:
        messages.append({"role": "user", "content": [{"type": "text", "text": asked}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answered}]})
    messages.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "locate the star"}]})
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    trained = f"{before_image(system, history)} <image> locate the star assistant:"
    assert processor.tokenizer(text).input_ids == lm_ids(trained)
