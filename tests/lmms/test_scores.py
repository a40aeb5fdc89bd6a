"""lmms-eval's scores with pruned tokens, beside those of `evaluate` on the same scenes."""

import pytest
from lmms_eval.tasks.refcoco.utils_rec import compute_iou, parse_float_sequence_within

import groundprune as gp
from groundprune.evaluation import Runner, Setting
from groundprune.integrations.lmms import answering
from support.lmms_tasks import (
    LIKELY,
    NAMES,
    PAPER,
    REC,
    REPEATED,
    ROUNDS,
    SAMPLED,
    TWO,
    TWO_TEXTS,
    UNTIL,
    rec_samples,
    two_images,
)  # fmt: skip

PRESERVED = "pretrained=pocket,pruner=cls-visual,keep=0.5"
TWO_OPTIONS = "hired:alpha=0.3:keep=0.25"


def said(results, task):
    """By document."""
    return {sample["doc_id"]: sample["filtered_resps"][0] for sample in results["samples"][task]}


@pytest.fixture(scope="module")
def preserved(evaluated):
    return evaluated(NAMES, PRESERVED, batch_size=8)


@pytest.fixture(scope="module")
def reassigned(evaluated):
    return evaluated([REC], f"{PRESERVED},positions=reassigned", batch_size=8)


@pytest.fixture(scope="module")
def pocket():
    return gp.load("pocket")


def rows(pocket, setting, protocol="native"):
    """What `evaluate` stores, in the order of the scenes."""
    runner = Runner(*pocket, rec_samples(), 64, protocol=protocol)
    runner.prepare([setting])
    found = {row["sample"]: row for batch in runner.run(setting) for row in batch}
    return [found[sample.id] for sample in rec_samples()]


@pytest.mark.parametrize("positions", ["preserved", "reassigned"])
def test_accuracy_and_iou_are_those_of_evaluate(positions, pocket, request):
    results = request.getfixturevalue(positions)
    ours = rows(pocket, Setting.of("cls-visual", 0.5, positions=positions))
    assert list(said(results, REC).values()) == [row["answer"] for row in ours]
    overlaps = [
        compute_iou(sample["doc"]["bbox"], parse_float_sequence_within(sample["filtered_resps"][0]))
        for sample in results["samples"][REC]
    ]
    assert [round(overlap, 4) for overlap in overlaps] == [row["iou"] for row in ours]
    scores = results["results"][REC]
    assert scores["refcoco_ACC@0.5,none"] == sum(row["correct"] for row in ours) / len(ours)
    assert scores["refcoco_IoU,none"] == pytest.approx(sum(row["iou"] for row in ours) / len(ours), abs=5e-5)


def test_reassigned_ids_lose_the_boxes(preserved, reassigned):
    right, lost = (found["results"][REC]["refcoco_ACC@0.5,none"] for found in (preserved, reassigned))
    assert right > 0.8
    assert lost < 0.2


def test_the_words_of_lmms_eval_are_the_protocol_paper(preserved, pocket):
    ours = rows(pocket, Setting.of("cls-visual", 0.5), "paper")
    assert list(said(preserved, PAPER).values()) == [row["answer"] for row in ours]


def test_no_pruner_is_the_stock_model(evaluated, pocket):
    results = evaluated([REC, TWO], "pretrained=pocket,pruner=none", batch_size=8)
    assert list(said(results, REC).values()) == [row["answer"] for row in rows(pocket, Setting.of())]
    assert list(said(results, TWO).values()) == [by_hand(pocket, i, None) for i in range(3)]


def by_hand(pocket, i, pruner):
    model, processor = pocket
    images, text = two_images()[i], TWO_TEXTS[i].replace("<image>", "")
    talk = [{"role": "user", "content": [{"type": "image"}] * len(images) + text_parts(TWO_TEXTS[i])}]
    assert text  # the marks of the first text are no words
    prompt = processor.apply_chat_template(talk, add_generation_prompt=True)
    inputs = processor(images=[images] if images else None, text=[prompt], return_tensors="pt")
    if pruner is not None and images:
        inputs = gp.prune_inputs(model, dict(inputs), pruner)
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def text_parts(text):
    return [{"type": "text", "text": piece} for piece in text.split("<image>") if piece.strip()]


def test_two_images_stand_in_their_order_and_a_document_may_have_none(preserved, pocket):
    expected = [by_hand(pocket, i, gp.ClsVisual(keep=0.5)) for i in range(3)]
    assert list(said(preserved, TWO).values()) == expected


def test_an_answer_ends_before_until(preserved):
    assert [text.partition(",")[0] for text in list(said(preserved, REC).values())[:3]] == list(
        said(preserved, UNTIL).values()
    )
    assert all(sample["token_counts"][0]["output_tokens"] < 5 for sample in preserved["samples"][UNTIL])


def test_rounds_see_the_answers_before_and_end_as_the_task_says(preserved):
    boxes = list(said(preserved, REC).values())[:3]
    for box, rounds in zip(boxes, said(preserved, ROUNDS).values(), strict=True):
        first, second, notes = rounds[0] if isinstance(rounds[0], list) else rounds
        assert first == box
        assert second in ("yes", "no")
        assert notes == "asked 2 times"


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": 5, "force_simple": True}], ids=["one", "simple"]
)
def test_batches_and_variants_say_the_same(options, evaluated, preserved):
    """Sampled answers too."""
    other = evaluated(NAMES, PRESERVED, **options)
    for name in NAMES:
        assert said(other, name) == said(preserved, name), name


def test_repeats_are_sampled_anew_and_again_the_same(evaluated):
    first, second = (evaluated([SAMPLED], f"{PRESERVED}", repeats=6, batch_size=4) for _ in range(2))
    answers = [sample["resps"] for sample in first["samples"][SAMPLED]]
    assert answers == [sample["resps"] for sample in second["samples"][SAMPLED]]
    assert any(len({str(text) for text in flat(each)}) > 1 for each in answers)


def flat(value):
    return [text for each in value for text in flat(each)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("size", [1, 4])
def test_an_image_that_is_asked_about_again_is_encoded_once(size, evaluated, monkeypatch):
    encoded, stock = [], answering.encode

    def counting(model, inputs, pruners):
        encoded.append(len(inputs["input_ids"]))
        return stock(model, inputs, pruners)

    monkeypatch.setattr(answering, "encode", counting)
    results = evaluated([REPEATED], PRESERVED, batch_size=size)
    assert len(results["samples"][REPEATED]) > 2
    assert sum(encoded) == 2


@pytest.mark.parametrize("pruner", [TWO_OPTIONS, "fastv:layer=2:keep=0.75"])
def test_a_pruner_with_options_passes_through_the_parser(pruner, evaluated, pocket):
    """The second prunes inside of the LLM."""
    results = evaluated([REC], f"pretrained=pocket,pruner={pruner}", batch_size=8)
    ours = rows(pocket, Setting.of(pruner))
    assert list(said(results, REC).values()) == [row["answer"] for row in ours]


def test_a_quote_keeps_the_comma_of_a_path(evaluated, pocket, tmp_path):
    (tmp_path / "a,b.py").write_text(
        "import groundprune as gp\n\n\nclass Norm(gp.Pruner):\n    name = 'norm'\n\n"
        "    def score(self, signals, layout, stage):\n        return signals.projected.norm(dim=-1)\n"
    )
    pruner = f'"{tmp_path}/a,b.py":Norm:keep=0.5'
    results = evaluated([REC], f"pretrained=pocket,pruner={pruner}", batch_size=8)
    assert list(said(results, REC).values()) == [row["answer"] for row in rows(pocket, Setting.of(pruner))]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("pretrained=pocket,kep=0.5", "did you mean 'keep'.*known: attn_implementation, batch_size"),
        ("pretrained=pocket,pruner=cls-visul,keep=0.5", "did you mean 'cls-visual'"),
        ("pretrained=pocket,pruner=cls-visual", "keep"),
        ("pretrained=pocket,pruner=cls-visual,keep=1.5", "1.5"),
        ("pretrained=pocket,keep=0.5", "need a pruner"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, said, evaluated):
    with pytest.raises(gp.GroundPruneError, match=said):
        evaluated([REC], arguments)


def test_likelihoods_are_refused_by_the_name_of_the_task(evaluated):
    with pytest.raises(gp.GroundPruneError, match=f"{LIKELY} asks for the likelihood"):
        evaluated([LIKELY], PRESERVED, force_simple=True)
