"""A server that answers at several budgets: its page, its counters, its log, and a day of all sorts of requests."""

import concurrent.futures
import contextlib
import http.client
import json
import random
import re
import struct
import urllib.parse
import urllib.request
import zlib

import psutil
import pytest
from PIL import Image

import groundprune as gp
from groundprune.answers import answer
from groundprune.pocket.scenes import TEST_SEEDS, make_scene
from support.server import body, chat, is_there, png, post, said_text, serving

EXPRESSION = "the red circle"
TEXT = f"locate {EXPRESSION}"
TOKENS = 144  # of the embedded model's images
BUDGETS = {None: 1, "half": 0.5, "quarter": 0.25}
WORDS = {None: None, "half": {"keep": 0.5}, "quarter": {"keep": 0.25}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    options = ["--keep", "1", "--pruner", "cls-visual", "--root-path", "/behind"]
    with serving(tmp_path_factory.mktemp("serve"), *options) as started:
        yield started


@pytest.fixture(scope="module")
def scenes():
    return [Image.fromarray(make_scene(seed).image) for seed in TEST_SEEDS[7:10]]


def get(address, path):
    with urllib.request.urlopen(f"{address}{path}", timeout=30) as response:
        return response.read().decode()


def page(address):
    return json.loads(get(address, "/groundprune"))


def together(calls, at_once=8):
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return [found.result() for found in [pool.submit(*call) for call in calls]]


def test_requests_at_once_are_answered_as_transformers_answers_each(server, scenes):
    model, processor = gp.load("pocket")
    cases = [(scene, name) for scene in scenes for name in BUDGETS]
    answers = together([(chat, server[1], scene, TEXT, WORDS[name]) for scene, name in cases])
    expected = [
        answer(model, processor, scene, EXPRESSION, "rec", gp.ClsVisual(keep=BUDGETS[name])) for scene, name in cases
    ]
    assert [said_text(said) for said in answers] == [found.text for found in expected]
    read = [said["usage"]["prompt_tokens"] for said in answers]
    for i, (_, name) in enumerate(cases):
        assert read[i] == read[0] - round(TOKENS * (1 - BUDGETS[name]))
    assert len({said_text(said) for said in answers[:3]}) > 1  # a budget can be told by its answer


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"keep": 3}, "keep must be a number above 0 and at most 1"),
        ({"pruner": "fastv"}, "inside of vLLM this model can run: cls-visual"),
        ({"positions": "stretched"}, "known: preserved, reassigned"),
        ({"pruner": "/tmp/mine.py:Mine"}, "unknown pruner"),
        ("half", "an object of pruner, keep, tokens, options, positions"),
    ],
)
def test_a_bad_value_is_the_clients_error_in_one_line(server, scenes, words, message):
    status, said = post(server[1], body(scenes[0], TEXT, words))
    assert status == 400
    assert message in said["error"]["message"]
    assert "\n" not in said["error"]["message"]
    assert is_there(server[1])


def test_a_prompt_past_the_models_positions_is_the_clients_error_and_harms_no_other(server):
    """The next request with its image comes without pixels, where the server takes the engine to have them."""
    images = [Image.effect_noise((96, 96), 20 + i).convert("RGB") for i in range(8)]
    ours, long = WORDS["quarter"], "the red circle " * 300
    asked = [body(image, text, ours) for image in images for text in (long, TEXT)]
    found = together([(post, server[1], given) for given in asked])
    assert [status for status, _ in found] == [400, 200] * 8
    assert all("those of the model end at 1023" in said["error"]["message"] for _, said in found[::2])
    # How much it wants to say is known later, when others may have asked about its image.
    other = Image.effect_noise((96, 96), 30).convert("RGB")
    status, said = post(server[1], body(other, long[:-300], ours, min_tokens=90, max_tokens=100))
    assert (status, "min_tokens is at most" in said["error"]["message"]) == (400, True)
    assert post(server[1], body(other, TEXT, ours))[0] == 200


def test_other_options_of_the_processor_are_for_trusted_clients_as_ever(server, scenes):
    given = body(scenes[0], TEXT, {"keep": 0.5})
    given["mm_processor_kwargs"]["size"] = {"height": 9999, "width": 9999}
    status, said = post(server[1], given)
    assert status == 400
    assert "--trust-request-mm-kwargs" in said["error"]["message"]


def test_page_and_metrics_tell_what_was_kept_and_dropped(server, scenes):
    _, address, _ = server
    before = page(address)
    for words in ({"tokens": 44}, {"tokens": 44}, {"pruner": "divprune", "tokens": 14}, {"keep": 7}):
        post(address, body(scenes[1], TEXT, words))
    after = page(address)
    counts = after["visual_tokens"]
    gained = {
        (kind, name): count - before["visual_tokens"][kind].get(name, 0)
        for kind, of in counts.items()
        for name, count in of.items()
    }
    assert gained == {
        ("kept", "cls-visual"): 88, ("kept", "divprune"): 14,
        ("dropped", "cls-visual"): 200, ("dropped", "divprune"): 130,
    }  # fmt: skip
    assert page(f"{address}/behind") == after
    about = {name: after[name] for name in ("version", "vllm", "model", "pruner", "keep", "tokens", "positions")}
    assert about == {
        "version": gp.__version__, "vllm": "0.32.0", "model": "pocket", "pruner": "cls-visual", "keep": "1",
        "tokens": None, "positions": "preserved",
    }  # fmt: skip
    metric = re.compile(r'^groundprune_visual_tokens_(\w+)_total\{pruner="(.+)"\} (\S+)', re.MULTILINE)
    found = {(kind, name): float(value) for kind, name, value in metric.findall(get(address, "/metrics"))}
    assert found == {(kind, name): counts[kind][name] for kind, name in gained}


def test_a_start_is_one_line_of_the_log(server):
    lines = [line for line in server[2].read_text().splitlines() if f"groundprune {gp.__version__}: " in line]
    assert len(lines) == 1
    assert "cls-visual:keep=1, positions preserved; prompts of up to 1024 slots and 1024 positions" in lines[0]


def test_a_box_that_a_schema_guides_reads_pruned_images(server, scenes):
    number = {"type": "number", "minimum": 0, "maximum": 1}
    schema = {"type": "array", "items": number, "minItems": 4, "maxItems": 4}
    guided = {"response_format": {"type": "json_schema", "json_schema": {"name": "box", "schema": schema}}}
    read = {}
    for words in (None, {"keep": 0.25}):
        said = [post(server[1], body(scenes[0], TEXT, words, max_tokens=40, **guided)) for _ in range(2)]
        assert [status for status, _ in said] == [200, 200], said
        (first, second) = (answer for _, answer in said)
        box = json.loads(said_text(first))
        assert len(box) == 4
        assert all(0 <= edge <= 1 for edge in box)
        assert said_text(first) == said_text(second)
        # Its own answers are such boxes: the schema forbids none of them.
        assert said_text(first) == said_text(chat(server[1], scenes[0], TEXT, words))
        read[str(words)] = first["usage"]["prompt_tokens"]
    assert read["None"] - read["{'keep': 0.25}"] == TOKENS - TOKENS // 4


def bomb(side=60_000):
    """A PNG of a few bytes that says it holds side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def break_off(address, given):
    """Ask for a stream, and leave after its first bytes."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
    with contextlib.closing(connection):
        more = {"stream": True, "max_tokens": 400, "ignore_eos": True}
        words = json.dumps({**given, **more})
        connection.request("POST", "/v1/chat/completions", words, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(20)


def memory(process):
    """Bytes of the server and its engine."""
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(each.memory_info().rss for each in every)


def test_two_hundred_requests_of_all_sorts(server, scenes):
    process, address, _ = server
    asked = [(scene, TEXT, words) for scene in scenes for words in WORDS.values()]
    thin = (Image.new("RGB", (12000, 10), "red"), TEXT, {"keep": 0.5})
    plain = (None, "what is in the scene?", None)
    quiet = [said_text(chat(address, *each)) for each in (*asked, thin, plain)]
    broken = [b"no image at all", png(scenes[0])[:200], bomb()]
    sorts = [("good", i) for i in range(len(asked) + 2)] * 11
    sorts += (
        [("broken", i % 3) for i in range(30)] + [("bad words", 0)] * 20 + [("aborted", i % 9) for i in range(29)]
    )
    random.Random(0).shuffle(sorts)
    assert len(sorts) == 200

    def one(sort, i):
        if sort == "good":
            return post(address, body(*(*asked, thin, plain)[i]))
        if sort == "broken":
            return post(address, body(broken[i], TEXT))
        if sort == "bad words":
            return post(address, body(scenes[0], TEXT, {"keep": -1}))
        return break_off(address, body(*asked[i]))

    warm = together([(one, *each) for each in sorts[:40]])
    before = memory(process)
    found = [*warm, *together([(one, *each) for each in sorts[40:]])]
    for (sort, i), (status, said) in zip(sorts, found, strict=True):
        if sort == "good":
            assert (status, said_text(said)) == (200, quiet[i])
        elif sort == "aborted":
            assert status == 200
        else:
            assert status == (
                500 if sort == "broken" and i == 2 else 400
            )  # a bomb is refused by vLLM, as its own error
    assert memory(process) < before + 300 * 2**20
    assert [said_text(chat(address, *each)) for each in (*asked, thin, plain)] == quiet
    assert page(address)["keep"] == "1"
