import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import groundprune as gp
from groundprune.answers import answer
from groundprune.signals import TextEmbedder
from support.checkpoints import save_tiny_llava

SIDE = 6  # of the grid of visual tokens


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return gp.load(save_tiny_llava(tmp_path_factory.mktemp("checkpoint") / "llava", SIDE))


@pytest.fixture
def saying(loaded, monkeypatch):
    """The model, and a processor that reads the given words from whatever it generates."""

    def processor(words):
        monkeypatch.setattr(type(loaded[1]), "decode", lambda *_, **__: words)
        return loaded

    return processor


@pytest.fixture
def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8))


def ask(loaded, image, text="the red circle", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tokenizer knows five words, the prompt has more
        return answer(*loaded, image, text, **options)


class TestBox:
    def test_comes_back_in_pixels_of_the_original_image(self, saying, noise):
        found = ask(saying("[0.25, 0.50, 0.75, 0.75]"), noise)
        # The image is padded to 60 x 60, 15 rows above and below.
        assert tuple(found.box) == pytest.approx((15, 15, 45, 30))
        assert (found.frame.width, found.frame.height) == (60, 30)

    @pytest.mark.parametrize("words", ["", "a circle", "[0.1, 0.2]", "[0.2, 0.0, 0.8, 0.2]", "[1, 2, 3, 4]"])
    def test_is_none_without_one_inside_of_the_image(self, saying, noise, words):
        found = ask(saying(words), noise)
        assert (found.box, found.text) == (None, words)

    def test_is_none_for_questions(self, saying, noise):
        assert ask(saying("[0.25, 0.50, 0.75, 0.75]"), noise, kind="vqa").box is None


class TestKept:
    def test_unpruned(self, loaded, noise):
        found = ask(loaded, noise)
        assert (found.kept, found.kept_tokens, found.total_tokens) == (None, SIDE * SIDE, SIDE * SIDE)

    @pytest.mark.parametrize("positions", ["preserved", "reassigned", "shifted:3"])
    def test_grid_is_what_the_pruner_kept(self, loaded, noise, positions):
        found = ask(loaded, noise, pruner=gp.ClsVisual(tokens=7), positions=positions)
        assert (found.kept.shape, found.kept.dtype) == ((SIDE, SIDE), bool)
        assert found.kept.sum() == found.kept_tokens == 7

    def test_rows_and_columns_are_those_of_the_image(self, loaded, noise):
        class LowerLeft(gp.Pruner):
            def score(self, signals, layout, stage):
                return layout.row.float() - layout.col.float()

        expected = np.zeros((SIDE, SIDE), dtype=bool)
        expected[-1, 0] = True
        assert (ask(loaded, noise, pruner=LowerLeft(tokens=1)).kept == expected).all()

    def test_keep_all_is_the_stock_model(self, loaded, noise):
        plain, whole = ask(loaded, noise), ask(loaded, noise, pruner=gp.Spatial(keep=1))
        assert plain.text == whole.text
        assert whole.kept.all()

    def test_text_reaches_the_pruner(self, loaded, noise):
        seen = []

        class Recorder(TextEmbedder):
            def text(self, text):
                seen.append(text)
                return torch.ones(1, 4)

            def patches(self, hidden):
                return hidden[:, :4]

        ask(loaded, noise, "the red circle", pruner=gp.TextVisual(keep=0.5), text_tower=Recorder())
        assert seen == ["the red circle"]


class TestSettings:
    def test_length_is_the_checkpoints_own_limit(self, loaded, noise, monkeypatch):
        monkeypatch.setattr(loaded[0].generation_config, "max_new_tokens", 3)
        assert len(ask(loaded, noise).text.split()) == 3

    def test_unknown_words_once_each(self, loaded, noise):
        with pytest.warns(UserWarning, match=r"does not know: mug, laptop$") as caught:
            answer(*loaded, noise, "the mug, mug the laptop!")
        assert Path(caught[0].filename) == Path(__file__)

    @pytest.mark.parametrize(
        ("text", "options", "says"),
        [
            (" ", {}, "empty"),
            ("an <image> of it", {}, "'<image>'"),
            ("the circle", {"kind": "req"}, "did you mean 'rec'?"),
            ("the circle", {"pruner": gp.TextVisual(keep=0.5)}, "text_tower="),
        ],
    )
    def test_refused(self, loaded, noise, text, options, says):
        with pytest.raises(gp.GroundPruneError) as refusal:
            ask(loaded, noise, text, **options)
        assert says in str(refusal.value)

    def test_braces_are_only_text(self, loaded, noise):
        assert ask(loaded, noise, "the {expression} {0} circle").total_tokens == SIDE * SIDE


class TestInputs:
    def test_of_a_batch_are_those_of_each_request_padded_on_the_left(self):
        model, processor = gp.load("pocket", device="cpu")
        scene = gp.scene(3)
        texts = [*scene.expressions][:2]
        batch = gp.inputs_for(model, processor, [scene.image] * len(texts), texts)
        for row, mask, text in zip(batch["input_ids"], batch["attention_mask"], texts, strict=True):
            alone = gp.inputs_for(model, processor, scene.image, text)
            assert row[mask.bool()].equal(alone["input_ids"][0])

    def test_ask_for_one_image_to_a_text(self, loaded, noise):
        with pytest.raises(gp.GroundPruneError, match="1 images and 2 texts given"):
            gp.inputs_for(*loaded, noise, ["a", "b"])

    def test_scenes_are_functions_of_their_seed(self):
        first, again, other = gp.scene(3), gp.scene(3), gp.scene(4)
        assert (first.expressions, first.questions) == (again.expressions, again.questions)
        assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()
        with pytest.raises(gp.GroundPruneError, match="seed must be 0 to 8999999"):
            gp.scene(-1)
