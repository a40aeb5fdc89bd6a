"""The trained variants: each differs from `plain` in what it says, and is trained on what it is evaluated with."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

import groundprune as gp
from groundprune.boxes import make_frame
from groundprune.boxes.polygons import PolygonCodec, to_pixels
from groundprune.checkpoints.load import grounding_of
from groundprune.checkpoints.prompts import chat_prompt, prompt_for
from groundprune.data.masks import filled, overlap
from groundprune.errors import GroundPruneError
from groundprune.pocket.questions import Question, draw_question
from groundprune.pocket.scenes import IMAGE_SIZE, SHAPES, SIZES, make_scene
from groundprune.tokens.selection import Selection
from support.closeness import assert_apart, assert_near
from tools.pocket_training.grid_rotary import rotated
from tools.pocket_training.hints import Hints
from tools.pocket_training.language import train_language
from tools.pocket_training.packing import PLAIN_PREFIX
from tools.pocket_training.runtime import Workers, load_state
from tools.pocket_training.tower import make_clip, train_tower
from tools.pocket_training.tower import to_pixels as normalised
from tools.pocket_training.tower_data import TowerPlan
from tools.pocket_training.vocabulary import EOS, LM_WORDS
from tools.variants.__main__ import main
from tools.variants.axes import Axes
from tools.variants.catalogue import PATCH, SEEDS, STUDIES, VARIANTS, wanted
from tools.variants.lessons import VISUAL, Variation
from tools.variants.loading import load_variant
from tools.variants.outlines import outline, outline_text, outline_turn
from tools.variants.training import jobs, train


@dataclass(frozen=True)
class These(gp.Pruner):
    """Keeps the tokens of `kept`, prompt after prompt."""

    kept: tuple = ()
    name = "these"

    def select(self, signals, layout, stage):
        return Selection(self.kept[layout.unit[0]].to(layout.column.device))


def clip(**tower):
    torch.manual_seed(0)
    return make_clip(TowerPlan(0, patch=PATCH, **tower)).eval()


def lively(model):
    """With weights large enough that attention is not uniform."""
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(weight, std=1.4 / np.sqrt(weight[0].numel()))
    return model.eval()


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One seed of every variant that these tests load, trained for four steps."""
    work = tmp_path_factory.mktemp("variants")
    every = jobs([VARIANTS[name] for name in ("plain", "one-axis", "three-axes")], [0], work, quick=True)
    for job in every:
        job.run()
    return {job.variant: job for job in every if not job.tower}


def first_batch(name: str, step: int = 1):
    variant = VARIANTS[name]
    batch = variant.lesson.batches(variant.language_plan(0, quick=True), Workers())(step)
    pixels = normalised(batch.pop("images"))
    for name in ("predicts", "questions", "asked", "evidence"):
        batch.pop(name, None)
    return pixels, batch


@torch.no_grad()
def trained_logits(lesson, model, pixels, batch):
    """Logits of the first block of each row, as training computes them: [B] of [tokens, V]."""
    visual = lesson.visual(model, lesson.features(lesson.tower(model), pixels))
    hidden, *_ = lesson.hidden(model, visual, **batch)
    return [model.lm_head(row[block == 0]) for row, block in zip(hidden, batch["block"], strict=True)]


def prompts(batch, token: str):
    """Each row's prefix, image and first block, in words."""
    rows = []
    for prefix, pad, tokens, block in zip(
        *(batch[n] for n in ("prefix", "prefix_pad", "tokens", "block")), strict=True
    ):
        before, after = prefix[pad:].tolist()[1:], tokens[block == 0].tolist()  # the tokenizer says <s> itself
        words = [LM_WORDS[i] for i in before], [LM_WORDS[i] for i in after]
        rows.append(" ".join([*words[0], token, *words[1]]))
    return rows


@pytest.mark.parametrize(("name", "policy"), [("with-preserved", "preserved"), ("with-reassigned", "reassigned")])
def test_training_with_pruning_gives_the_ids_that_the_policy_gives(name, policy, quick):
    """What is trained is, number for number, the stock model on what `gp.prune_inputs` gives; under the other policy
    it is not."""
    pixels, batch = first_batch(name)
    lesson = VARIANTS[name].lesson
    _, processor = load_variant(quick["plain"])
    model = lively(lesson.model(clip()))
    expected = trained_logits(lesson, model, pixels, batch)
    images = [Image.fromarray(np.uint8(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3)))) for _ in pixels]
    inputs = dict(
        processor(
            images=images, text=prompts(batch, "<image>"), padding=True, padding_side="left", return_tensors="pt"
        )
    )
    inputs["pixel_values"] = pixels
    given = {}
    for chosen in ("preserved", "reassigned"):
        pruner = These(keep=0.5, kept=tuple(batch["kept"]))
        short = gp.prune_inputs(model, dict(inputs), pruner, chosen)
        with torch.no_grad():
            given[chosen] = model(**short).logits
    other = "reassigned" if policy == "preserved" else "preserved"
    for row, wanted_logits in enumerate(expected):
        assert_near(given[policy][row, -len(wanted_logits) :], wanted_logits, 2e-5)
    assert_apart(given[other][0, -len(expected[0]) :], expected[0], 1e-2)
    assert batch["kept"].shape == (len(pixels), VISUAL // 2)


@pytest.mark.parametrize("name", ["one-axis", "three-axes"])
def test_axes_are_trained_as_qwen_counts_them(name, quick):
    """Training's states are the stock Qwen2-VL's on its own processor's inputs; with the other's ids they are not."""
    pixels, batch = first_batch(name)
    job = quick[name]
    lesson = VARIANTS[name].lesson
    loaded, processor = load_variant(job)
    model = lively(loaded)
    expected = trained_logits(lesson, model, pixels, batch)
    variant = VARIANTS[name]
    images = variant.lesson.batches(variant.language_plan(0, quick=True), Workers())(1)["images"]
    given = dict(
        processor(images=[Image.fromarray(image.numpy()) for image in images], text=prompts(batch, "<image>"),
                  padding=True, padding_side="left", return_tensors="pt")
    )  # fmt: skip
    assert (given["image_grid_thw"] == torch.tensor([1, 8, 8])).all()
    with torch.no_grad():
        logits = model(**given).logits
    for row, wanted_logits in enumerate(expected):
        assert_near(logits[row, -len(wanted_logits) :], wanted_logits, 1e-4)
    other = Axes(split=name == "one-axis")
    assert_apart(trained_logits(other, model, pixels, batch)[0], expected[0], 1e-2)


def test_on_one_axis_ids_count_tokens(quick):
    model, processor = load_variant(quick["one-axis"])
    image = Image.fromarray(make_scene(1).image)
    text = chat_prompt(processor, "locate the star")
    given = dict(processor(images=[image], text=[text], return_tensors="pt"))
    count = given["input_ids"].shape[1]
    one, _ = model.model.get_rope_index(**{k: v for k, v in given.items() if "pixel" not in k})
    assert one.equal(torch.arange(count).expand(3, 1, -1))
    three, _ = load_variant(quick["three-axes"])[0].model.get_rope_index(
        **{k: v for k, v in given.items() if "pixel" not in k}
    )
    assert len(three[:, 0].unique(dim=1).T) == count
    assert not three[0].equal(three[1])
    assert int(three.max()) == count - VISUAL + 8 - 1


def test_a_tower_is_told_positions_as_its_plan_says():
    """Patches in another order come out in that order only where the tower was never told places."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    pixels = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    grid = pixels.view(1, 3, 8, 18, 8, 18).permute(0, 2, 4, 1, 3, 5).reshape(1, 64, 3, 18, 18)
    moved = grid[:, order].view(1, 8, 8, 3, 18, 18).permute(0, 3, 1, 4, 2, 5).reshape(pixels.shape)
    for positions in ("none", "learned", "rotary"):
        tower = lively(clip(positions=positions)).vision_model
        if positions == "learned":
            torch.nn.init.normal_(tower.embeddings.position_embedding.weight)
        with torch.no_grad():
            a, b = (tower(x).last_hidden_state[:, 1:] for x in (pixels, moved))
        (assert_near if positions == "none" else lambda x, y: assert_apart(x, y, 1e-2))(b, a[:, order])


def test_rotary_attention_sees_displacements_alone():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)
    q, k = (rotated(torch.cat([x, x.expand(1, 1, 64, 32)], 2)) for x in (query, key))
    assert_near(q[:, :, 0], query[:, :, 0])  # the class token stands nowhere
    scores = (q[0, 0, 1:] @ k[0, 0, 1:].T).view(8, 8, 8, 8)
    for rows, columns in ((0, 1), (1, 0), (2, 3)):
        found = [scores[r, c, r + rows, c + columns] for r in range(8 - rows) for c in range(8 - columns)]
        assert_near(torch.stack(found), found[0].expand(len(found)))
    assert_apart(scores[0, 0, 0, 1], scores[0, 0, 1, 0], 1e-3)


def test_hints_point_at_what_is_asked_for():
    torch.manual_seed(0)
    hints, visual, text = Hints(16), torch.randn(2, 64, 16), torch.randn(2, 9, 16)
    asked, evidence = torch.tensor([[0, 1], [3, 5]]), torch.zeros(2, 64, dtype=torch.bool)
    evidence[0, 7] = evidence[1, 60:] = True
    whole = hints(visual, text, asked, evidence)
    cell = torch.stack([torch.randperm(64)[:32].sort().values for _ in range(2)])
    cell[:, -1], cell[:, 0] = 63, 7
    fewer = visual.gather(1, cell[:, :, None].expand(-1, -1, 16))
    scores = []
    for q, (row, column) in enumerate(asked.T.tolist()):
        query = torch.nn.functional.normalize(hints.query(hints.norm(text[row, column])), dim=-1)
        key = torch.nn.functional.normalize(hints.key(hints.norm(fewer[row])), dim=-1)
        target = evidence[q, cell[row]].float()
        scores.append(-(target / target.sum() * (8 * key @ query).log_softmax(-1)).sum())
    assert_near(hints(fewer, text, asked, evidence, cell), torch.stack(scores).mean())
    assert_apart(whole, torch.stack(scores).mean(), 1e-3)


def test_outlines_are_those_of_what_is_drawn():
    seen = set()
    codec, frame = PolygonCodec(), make_frame("original", IMAGE_SIZE, IMAGE_SIZE)
    for seed in range(40):
        for obj in make_scene(seed).objects:
            said = codec.decode(outline_text(outline(obj)))
            assert said is not None
            assert 8 <= len(said) <= 16
            both, either = overlap(filled(to_pixels(said, frame), IMAGE_SIZE, IMAGE_SIZE), obj.mask)
            # A step of the language is 1.4 pixels.
            assert both / either > (0.65 if obj.size == "small" else 0.8)
            left, top, right, bottom = obj.box
            boxed = filled([(left, top), (right, top), (right, bottom), (left, bottom)], IMAGE_SIZE, IMAGE_SIZE)
            assert obj.shape == "square" or both / either > np.divide(*overlap(boxed, obj.mask))
            seen.add((obj.shape, obj.size))
    assert len(seen) == len(SHAPES) * len(SIZES)


def test_only_places_are_answered_by_outlines():
    scene, rng = make_scene(3), np.random.default_rng(0)
    place, word = (draw_question(rng, scene.objects, kind) for kind in ("rec", "vqa"))
    assert len(outline_turn(place, scene)[1]) >= 17
    assert [LM_WORDS[i] for i in outline_turn(word, scene)[1]] == [*word.answer.split(), EOS]


def test_outlines_are_asked_for_in_the_words_of_training(quick):
    model, processor = load_variant(quick["plain"])
    said = prompt_for(processor, grounding_of(model), "seg", "the red star")
    question = Question("rec", "attribute", "the red star", (0,), box=(1, 2, 30, 40))
    asked, _ = outline_turn(question, make_scene(3))
    assert said.split()[-len(asked) :] == [LM_WORDS[i] for i in asked]


def test_variants_differ_in_one_thing():
    plain = VARIANTS["plain"]
    assert (plain.positions, plain.places) == ("none", 0.0)
    assert plain.lesson == Variation()
    for study, names in STUDIES.items():
        assert set(names) <= set(VARIANTS), study
    for name in ("learned", "rotary", "regularised"):
        assert VARIANTS[name].lesson == plain.lesson
    for name in ("joint", "linear", "conv"):
        assert VARIANTS[name].tower_name == VARIANTS["learned"].tower_name
    for name in ("before", "after", "fixed", "outlines", "with-preserved", "with-reassigned"):
        assert VARIANTS[name].tower_name == plain.tower_name
    plans = {name: v.language_plan(0) for name, v in VARIANTS.items()}
    assert {(plan.batch, plan.hints, plan.steps * plan.rec) for plan in plans.values()} == {(8, 0.5, 2800 * 8)}
    assert {name for name, plan in plans.items() if plan.steps != 2800} == {"outlines"}  # compared with none
    assert [variant.name for variant in wanted(["offset", "sources"])][:2] == ["plain", "fixed"]


def test_a_fixed_prefix_is_always_the_same():
    lesson, plan = VARIANTS["fixed"].lesson, VARIANTS["fixed"].language_plan(0)
    batches = lesson.batches(plan, Workers())
    for step in range(4):
        found = batches(step)
        assert found["prefix"].tolist() == [PLAIN_PREFIX] * plan.batch
        assert not found["gap"].any()
    lengths = {VARIANTS["plain"].lesson.batches(plan, Workers())(step)["prefix"].shape[1] for step in range(8)}
    assert len(lengths) == 2


def test_a_training_that_was_killed_goes_on(tmp_path):
    """The same weights, also when the run before it ended between two checkpoints."""
    whole = jobs([VARIANTS["plain"]], [0], tmp_path / "a", quick=True)
    for job in whole:
        job.run()
    broken = jobs([VARIANTS["plain"]], [0], tmp_path / "b", quick=True)
    train_tower(Workers(), VARIANTS["plain"].tower_plan(0, quick=True), broken[0].path, stop_after=2)
    assert not broken[0].done
    broken[0].run()
    plan = VARIANTS["plain"].language_plan(0, quick=True)
    train_language(Workers(), plan, broken[0].path, broken[1].path, 3, VARIANTS["plain"].lesson)
    assert not broken[1].done
    train(broken, processes=1)
    assert all(job.done for job in broken)
    for a, b in zip(whole, broken, strict=True):
        for (name, weight), other in zip(
            load_state(a.path)["model"].items(), load_state(b.path)["model"].values(), strict=True
        ):
            assert_near(other, weight), name


def test_a_checkpoint_of_another_plan_is_refused(tmp_path):
    (short, _) = jobs([VARIANTS["plain"]], [0], tmp_path, quick=True)
    short.run()
    (whole, _) = jobs([VARIANTS["plain"]], [0], tmp_path)
    assert whole.path == short.path
    with pytest.raises(GroundPruneError, match=r"tower\.pt was trained by another plan"):
        train([whole], processes=1)


def test_a_failed_training_is_named(tmp_path):
    (job,) = [job for job in jobs([VARIANTS["plain"]], [0], tmp_path, quick=True) if not job.tower]
    with pytest.raises(GroundPruneError, match=r"training .*plain\.pt failed"):  # its tower is not there
        train([job], processes=1)


def test_the_command_trains_asks_and_then_only_asks(tmp_path, capsys):
    words = ["offset", "--seeds", "1", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "3 of 3 trainings to do" in out
    assert (tmp_path / "out" / "offset" / "page.md").is_file()
    assert {path.name for path in (tmp_path / "out" / "offset").iterdir() if path.is_dir()} == {
        "plain-s0",
        "fixed-s0",
    }
    assert main(words) == 0
    assert "0 of 3 trainings to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sorces"], "unknown study of trained variants 'sorces'"),
        (["sources", "--seeds", "0"], f"--seeds must be 1 to {len(SEEDS)} (got 0)"),
        (["sources", "--processes", "0"], "--processes must be a whole number of at least 1"),
        ([], "required: study"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(words, says, tmp_path, capsys):
    assert main([*words, "--work", str(tmp_path / "work")]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "work").exists()
