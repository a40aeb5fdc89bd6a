"""What the words of a request mean on a server, and how they travel; no vLLM is needed."""

import itertools
import json
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import groundprune as gp
from groundprune.families import families
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.requests import EngineLimits, Requests
from groundprune.integrations.vllm.settings import Settings
from groundprune.pruners import make_pruner

WIDE_OPEN = EngineLimits(reach=1024, encoded=2048)


def server(pruner, positions="preserved", family="llava", limits=WIDE_OPEN):
    config = families()[family].tiny_config()
    config.groundprune = Settings.of(pruner, positions).to_dict()
    limits.note(config)
    return Requests(ImagePruning(config))


def unit(requests, side=6):
    patch = requests.own.config.vision_config.patch_size
    (found,) = requests.own.units({"pixel_values": torch.rand(1, 3, side * patch, side * patch)})
    return found


@pytest.mark.parametrize(
    ("words", "pruner", "positions"),
    [
        ({"keep": 0.25}, gp.Coverage(keep=0.25, spread=0.5), "reassigned"),
        ({"tokens": 4}, gp.Coverage(tokens=4, spread=0.5), "reassigned"),
        ({"keep": None, "tokens": "4"}, gp.Coverage(tokens=4, spread=0.5), "reassigned"),
        ({"positions": "preserved"}, gp.Coverage(keep=0.5, spread=0.5), "preserved"),
        ({"options": {}}, gp.Coverage(keep=0.5), "reassigned"),
        ({"options": {"anchors": True}}, gp.Coverage(keep=0.5, anchors=True), "reassigned"),
        ({"pruner": "random"}, gp.Random(keep=0.5), "reassigned"),
        ({"pruner": "random", "options": {"seed": 3}, "keep": "1/3"}, gp.Random(keep="1/3", seed=3), "reassigned"),
    ],
)
def test_absent_words_are_the_servers(words, pruner, positions):
    found = server(gp.Coverage(keep=0.5, spread=0.5), "reassigned").of(words)
    asked = Settings.of(make_pruner(pruner), positions)
    assert (found.settings.pruner, found.settings.options) == (asked.pruner, asked.options)
    assert (found.stage.budget, found.settings.positions) == (pruner.budget, positions)


@pytest.mark.parametrize("words", [None, {}, {"keep": "1/2"}, {"keep": 0.5, "pruner": "coverage"}, {"options": None}])
def test_a_request_that_says_what_the_server_does_is_the_servers(words):
    requests = server(gp.Coverage(keep=0.5, spread=0.5))
    assert requests.of(words) is requests.own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (0.5, "an object of pruner, keep, tokens, options, positions"),
        ({"kep": 0.5}, "unknown setting 'kep'; did you mean 'keep'"),
        ({"keep": 1.5}, "keep must be a number above 0 and at most 1"),
        ({"keep": 0.5, "tokens": 3}, "give either keep= or tokens="),
        ({"keep": [0.5]}, "keep is one word"),
        ({"keep": "1e-999999999"}, "keep must be a number"),  # whose fraction would fill the memory
        ({"keep": True}, "keep must be a number"),
        ({"tokens": 10**70}, "more than 64 characters"),
        ({"tokens": 0}, "at least 1"),
        ({"pruner": "nothing"}, "unknown pruner 'nothing'"),
        ({"pruner": "/etc/passwd.py:Mine"}, "unknown pruner"),  # no client names files
        ({"pruner": "fastv"}, "between layers of the LLM"),
        ({"pruner": "coverage", "options": {"text": True}}, "'clip_patches' is not read"),
        ({"pruner": "coverage", "options": {"spread": "nan"}}, "spread must be from 0 to 1"),
        ({"pruner": "coverage", "options": {"spread": [1]}}, "spread is one word"),
        ({"options": {"alpha": 1}}, "has no options"),
        ({"options": 3}, "options is an object"),
        ({"positions": "stretched"}, "unknown position policy"),
        ({"x" * 100: 1}, "x" * 64),
    ],
)
def test_a_bad_word_is_named_in_one_line(words, message):
    with pytest.raises(gp.GroundPruneError, match=r"^mm_processor_kwargs, groundprune: ") as raised:
        server(gp.ClsVisual(keep=1)).of(words)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_request_keeps_at_most_what_its_server_keeps():
    requests = server(gp.ClsVisual(keep=0.25))
    image = unit(requests)
    for words in ({"tokens": 9}, {"keep": 0.25, "pruner": "random"}, {"tokens": 1}):
        requests.check_image(requests.of(words), image)
    with pytest.raises(gp.GroundPruneError, match=r"\(0\.25\), 9 of this image's 36 tokens \(got 10\)"):
        requests.check_image(requests.of({"tokens": 10}), image)


def test_a_pruner_that_fails_is_found_out_before_the_engine(monkeypatch):
    monkeypatch.setattr(gp.Spatial, "rule", lambda *_: 1 / 0)
    requests = server(gp.ClsVisual(keep=1))
    with pytest.raises(gp.GroundPruneError, match="spatial cannot choose so: division by zero"):
        requests.check_image(requests.of({"pruner": "spatial", "keep": 0.5}), unit(requests))


@pytest.mark.parametrize(
    ("limits", "words", "message"),
    [
        (
            {"by_content": ["pipelines"]},
            {"keep": 0.5},
            "not go together with this server's pipelines",
        ),
        ({"by_tower": ["shards"]}, {"keep": 0.5}, "this server's shards"),
        ({"raw_pixels": True}, {"keep": 0.5, "pruner": "random"}, "random draws by normalised pixels"),
    ],
)
def test_the_engines_options_hold_for_requests(limits, words, message):
    requests = server(gp.Spatial(keep=1), limits=EngineLimits(1024, 2048, **limits))
    with pytest.raises(gp.GroundPruneError, match=message):
        requests.of({"pruner": "cls-visual", **words})
    assert requests.of({"keep": 0.5}).settled


def test_settings_arrive_as_they_left_and_no_step_encodes_more_than_there_is_memory_for():
    requests = server(gp.ClsVisual(keep=1), limits=EngineLimits(1024, encoded=80))
    image, pruning = unit(requests), requests.of({"keep": 0.25, "positions": "reassigned"})
    assert requests.travelling(requests.own, image) is None
    assert requests.arrived(None) is requests.own
    words = [requests.travelling(pruning, image) for _ in range(5)]
    assert all(requests.arrived(each).settings == pruning.settings for each in words)
    # Of 36 tokens each, two fit.
    same = [first.equal(second) for first, second in itertools.pairwise(words)]
    assert same == [True, False, True, False]


def test_an_image_moves_what_follows_by_its_tokens_or_by_its_longer_side():
    assert server(gp.ClsVisual(keep=1)).own.extent(unit(server(gp.ClsVisual(keep=1)))) == 36
    own = server(gp.ClsVisual(keep=1), family="qwen2_5_vl").own
    grid = torch.tensor([[1, 4, 10]])
    (image,) = own.units({"image_grid_thw": grid, "pixel_values": torch.empty(40, 0)})
    merge = own.config.vision_config.spatial_merge_size
    assert own.extent(image) == 10 // merge


BUDGETS = st.sampled_from([{"keep": 0.5}, {"keep": "1/2"}, {"keep": "0.50"}, {"keep": 0.25}, {"tokens": 9}, {}])
POSITIONS = st.sampled_from([{}, {"positions": "preserved"}, {"positions": "reassigned"}])
PRUNERS = st.sampled_from(
    [
        {}, {"pruner": "cls-visual"}, {"pruner": "random"}, {"pruner": "random", "options": {"seed": 0}},
        {"pruner": "random", "options": {"seed": "1"}}, {"pruner": "coverage", "options": {"spread": 1}},
        {"pruner": "coverage", "options": {"spread": 1.0, "anchors": False}},
        {"pruner": "coverage", "options": {"anchors": True, "spread": 1}},
    ]
)  # fmt: skip
WORDS = st.builds(lambda *parts: {k: v for part in parts for k, v in part.items()}, BUDGETS, POSITIONS, PRUNERS)


def meaning(words):
    """Not by way of what is tested: the server keeps 1 with cls-visual, and preserves."""
    options = {"seed": 0} if words.get("pruner") == "random" else {}
    options = {"spread": 0.3, "anchors": False} if words.get("pruner") == "coverage" else options
    options |= {
        k: v if isinstance(v, bool) else float(v) if k == "spread" else int(v)
        for k, v in words.get("options", {}).items()
    }
    share = None if "tokens" in words else Fraction(str(words.get("keep", 1)))
    name, positions = words.get("pruner", "cls-visual"), words.get("positions", "preserved")
    return name, share, words.get("tokens"), tuple(sorted(options.items())), positions


SERVER = server(gp.ClsVisual(keep=1))


@given(WORDS, WORDS)
def test_identities_are_those_of_meanings(first, second):
    found = [SERVER.of(json.loads(json.dumps(words))).settings.identity for words in (first, second)]
    assert (found[0] == found[1]) == (meaning(first) == meaning(second))
