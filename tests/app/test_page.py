import json
import re
import socket
import sys
import urllib.request

import pytest

from groundprune.app import events, rendering
from groundprune.app.asking import Bench
from groundprune.app.events import Samples, Try
from groundprune.app.page import build
from groundprune.app.serving import serve
from groundprune.app.stored import PAGE, Shelf
from groundprune.cli import main
from groundprune.errors import GroundPruneError

gradio = pytest.importorskip("gradio")

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def tried(bench):
    return Try(gradio, bench)


ASKED = ("rec", "cls-visual", 0.5, "reassigned")


class TestTry:
    def test_panels_say_what_was_answered(self, tried):
        (shown,) = tried.ask("scene:7", "the small purple object", *ASKED)
        for word in ("unpruned", "preserved", "reassigned", "144 of 144", "72 of 144", "IoU", "ground truth"):
            assert word in shown
        assert shown.count('<svg class="gp-picture"') == 3
        assert shown.count("gp-heat") == 2

    def test_a_pruner_without_a_score_has_no_heat(self, tried):
        (shown,) = tried.ask("scene:7", "the small purple object", "rec", "spatial", 0.5, "reassigned")
        assert "gp-heat" not in shown

    def test_what_is_typed_is_text(self, tried):
        for text, policy in ((EVIL, "reassigned"), ("the red circle", EVIL)):
            (shown,) = tried.ask("scene:7", text, "rec", "random", 0.5, policy)
            assert "&lt;script&gt;alert(1)" in shown
            assert not re.search(r"<script|<img(?! class=\"gp-tiles)", shown)

    def test_another_scene(self, tried, bench):
        seed, source, _requests, text, kind, shown = tried.another(7, *ASKED[1:])
        assert (seed, source, kind) == (8, "scene:8", "rec")
        assert text in bench.picture("scene:8").requests["rec"]
        assert "right" in shown

    def test_a_request_of_the_scene_is_asked_in_its_kind(self, tried, bench):
        question = next(iter(bench.picture("scene:7").requests["vqa"]))
        text, kind, shown = tried.requested(question, "scene:7", *ASKED[1:])
        assert (text, kind) == (question, "vqa")
        assert "The true answer" in shown

    def test_what_cannot_be_shown_does_not_stay(self, tried, tmp_path):
        (tmp_path / "words.txt").write_text("words")
        upload, *kept, shown = tried.upload(str(tmp_path / "words.txt"), "the red circle", *ASKED)
        assert upload is None
        assert {value["__type__"] for value in kept} == {"update"}
        assert "words.txt: not an image" in shown
        assert str(tmp_path) not in shown

    @pytest.mark.parametrize("seed", [None, "x", float("nan"), -1, 10**12])
    def test_no_such_scene(self, tried, seed):
        assert 'role="alert"' in tried.numbered(seed, *ASKED[1:])[-1]

    def test_whatever_goes_wrong_is_a_message(self, tried, bench, monkeypatch):
        def broken(*_):
            raise RuntimeError(f"out of memory {EVIL}\nand a second line")

        monkeypatch.setattr(bench, "ask", broken)
        (shown,) = tried.ask("scene:7", "the red circle", *ASKED)
        assert "RuntimeError: out of memory &lt;script" in shown
        assert "second line" not in shown


class TestSamples:
    @pytest.fixture
    def looked(self, run_folder):
        return Samples(gradio, Shelf(run_folder.parent))

    def test_pages(self, looked):
        choice, _outcome, page, where, shown = looked.open("run")
        assert choice.value == "cls-visual, keep 0.5"
        assert shown.count("gp-picture") == PAGE
        assert (page, "Page 1 of 2, 16 samples" in where) == (0, True)
        given = ("run", choice.value, "all")
        second = looked.later(*given, 0)
        assert second[0] == 1
        assert second[2] != shown
        assert looked.later(*given, 1) == second  # there is no third
        assert looked.earlier(*given, 1)[2] == looked.earlier(*given, 0)[2] == shown

    def test_an_outcome(self, looked):
        choice, *_ = looked.open("run")
        _, where, shown = looked.first("run", choice.value, "recovered by preserving", 3)
        assert re.search(r"Page 1 of \d", where)
        assert "wrong" in shown

    @pytest.mark.parametrize("folder", ["", None, "nope", EVIL])
    def test_no_such_folder(self, looked, folder):
        *_, shown = looked.open(folder)
        assert 'role="alert"' in shown
        assert "<script" not in shown


@pytest.fixture(scope="module")
def reached():
    """The hosts that anybody in this process asked for."""
    hosts, stock = set(), socket.getaddrinfo

    def noting(host, *args, **kwargs):
        hosts.add(host)
        return stock(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", noting)
        yield hosts


@pytest.fixture(scope="module")
def served(pocket, run_folder, reached):
    serving = serve(Bench(*pocket, name=EVIL), run=run_folder)
    yield serving.address
    serving.close()


def fetched(address):
    with urllib.request.urlopen(address, timeout=20) as reply:
        return reply.headers, reply.read().decode()


class TestServing:
    def test_every_event_gives_as_many_values_as_it_has_places_for(self, bench, run_folder):
        blocks = build(bench, Shelf(run_folder.parent), "run")
        ours = [fn for fn in blocks.fns.values() if fn.fn is not None]
        assert len(ours) > 10
        for fn in ours:
            wrong = [object() for _ in fn.inputs]  # the worst that can be sent
            assert len(fn.fn(*wrong)) == len(fn.outputs), fn.name

    def test_loopback_alone_and_not_shared(self, served, reached):
        assert served.startswith("http://127.0.0.1:")
        assert fetched(served)
        assert reached == {"127.0.0.1"}

    def test_the_page_asks_nobody_else(self, served):
        headers, page = fetched(served)
        policy = headers["content-security-policy"]
        assert "http" not in policy.replace("http-equiv", "")
        assert all(sources.split()[1:][0] in ("'self'", "'none'") for sources in policy.split("; "))
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"([^\"]+)\"", page)
        assert loaded
        assert not [address for address in loaded if "//" in address]
        config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)[1])
        assert config["analytics_enabled"] is False
        assert not [sheet for sheet in config.get("stylesheets") or [] if "//" in sheet]
        # gradio's own words, a picture for previews of a link and examples of values: no browser fetches them.
        outside = set(re.findall(r"https?://([\w.-]+)", page)) - {"127.0.0.1", "www.w3.org"}
        assert outside <= {"raw.githubusercontent.com", "gradio.app", "github.com"}

    def test_the_models_name_is_text(self, served):
        _, page = fetched(served)
        assert "<script>alert(1)" not in page

    def test_a_taken_port(self, served, capsys):
        port = served.rstrip("/").rpartition(":")[2]
        assert main(["app", "--port", port]) == 2
        said = capsys.readouterr().err
        assert f"port {port}" in said
        assert said.count("\n") == 1


class TestCommand:
    def test_nothing_is_shared(self, capsys):
        assert main(["app", "--help"]) == 0
        said = capsys.readouterr().out
        assert "--port" in said
        assert "share" not in said.replace("shared", "")
        assert main(["app", "--share"]) == 2

    def test_without_gradio(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "gradio", None)
        assert main(["app"]) == 2
        said = capsys.readouterr().err
        assert "groundprune[app]" in said
        assert said.count("\n") == 1

    def test_a_run_that_is_none(self, bench, tmp_path):
        with pytest.raises(GroundPruneError, match="is no folder of results"):
            serve(bench, run=tmp_path)


def test_messages_are_text():
    assert "&lt;script&gt;" in rendering.message(EVIL)
    assert rendering.message("") == ""
    assert events.told(ValueError("")) == "that did not work (ValueError: ValueError)"
