"""The proof of an installed vLLM, but for vLLM: images, stored proofs, and what the commands make of outcomes."""

import json
from dataclasses import replace

import pytest
import torch

import groundprune as gp
from groundprune.cli import main
from groundprune.errors import Unproven
from groundprune.exactness.folders import save_checkpoint
from groundprune.families import family_of
from groundprune.integrations.vllm import proof, proof_engine, proof_images, stored_proofs, versions
from groundprune.integrations.vllm.proof import Outcome, compare, prove, short_form
from groundprune.integrations.vllm.proof_images import choose_images
from groundprune.integrations.vllm.saying import STEPS, Said, by_transformers, inputs_of
from groundprune.integrations.vllm.settings import ARCHITECTURES
from groundprune.integrations.vllm.stored_proofs import SWITCH, UNPROVEN
from groundprune.pruners import make_pruner
from groundprune.version import __version__

HERE = stored_proofs.Installation("9.9.0", "2.13.0", __version__, "cpu", "v1")


class Stock:
    """A vLLM that says what transformers says, but for what `wrong` does to it."""

    def __init__(self, wrong=lambda said: said):
        self.wrong, self.told = wrong, []

    def start(self, arguments):
        settings = arguments["hf_overrides"]["groundprune"]
        self.pruner, self.positions = make_pruner(settings["pruner"], 0.5), settings["positions"]
        self.model, self.processor = gp.load(arguments["model"])
        self.told = []
        return HERE

    def say(self, requests, steps=STEPS):
        found = by_transformers(self.model, self.processor, requests, self.pruner, self.positions, steps)
        image = family_of(self.model.config).token_ids(self.model.config)["image"]
        for i, (text, images) in enumerate(requests):
            ids = inputs_of(self.processor, text, images)["input_ids"][0].tolist()
            for _ in range(len(ids) - found[i].columns):  # vLLM's prompt holds what stays
                ids.remove(image)
            cached = max((len(_common(ids, before)) // 32 * 32 for before in self.told), default=0)
            self.told.append(ids)
            found[i] = self.wrong(found[i]._replace(prompt=tuple(ids), cached=min(cached, len(ids) - 1)))
        return found


def _common(one, other):
    end = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:end]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family_that_is_served_is_proven_case_by_case(family):
    """Each case comes about: a block and a chunk end inside of the image, whatever the family's prompts are."""
    both = family == "llava"
    found = list(prove(Stock(), [family], short=not both))
    assert {outcome.verdict for outcome in found} == {"ok"}, [o.said for o in found if o.verdict != "ok"]
    assert [outcome.pruner for outcome in found] == ["spatial"] * 7 * both + ["cls-visual"] * 8
    assert all(outcome.difference > 0.01 for outcome in found if outcome.case == "renumbered")


WRONG = {
    "one image": (lambda said: said._replace(logprobs=said.logprobs + 0.1), "FAILED", "differ by"),
    "two images": (lambda said: said._replace(logprobs=said.logprobs * torch.nan), "FAILED", "are no numbers"),
    "text alone": (lambda said: said._replace(columns=said.columns + 1), "FAILED", "slots were taken"),
    "repeated prompt": (lambda said: said._replace(cached=0), "inconclusive", "0 slots were cached"),
    "prefix hit inside of an image": (lambda said: said._replace(ids=[0, *said.ids[1:]]), "FAILED", "other tokens"),
}


def test_what_is_wrong_is_said_of_the_case_that_it_is_wrong_in():
    answers = iter(["one image", "two images", "text alone", "", "repeated prompt", "", "prefix hit"])

    def say(said):
        case = next(answers, "")
        return next((wrong(said) for name, (wrong, *_) in WRONG.items() if case and name.startswith(case)), said)

    found = {outcome.case: outcome for outcome in prove(Stock(say), ["llava"], short=True)}
    for case, (_, verdict, reason) in WRONG.items():
        assert found[case].verdict == verdict
        assert reason in found[case].said
    assert {found[case].verdict for case in found.keys() - WRONG.keys()} == {"ok"}


def test_an_engine_that_does_not_renumber_proves_nothing():
    class Deaf(Stock):
        def start(self, arguments):
            arguments["hf_overrides"]["groundprune"]["positions"] = "preserved"
            return super().start(arguments)

    *rest, control = prove(Deaf(), ["llava"], short=True)
    assert {outcome.verdict for outcome in rest} == {"ok"}
    assert (control.case, control.verdict) == ("renumbered", "inconclusive")


def test_a_family_without_images_for_a_pruner_is_one_of_the_outcomes():
    """One of 36 tokens stays, too few for a prompt to end a block inside of it; what else is proven goes on."""
    found = list(prove(Stock(), ["llava", "qwen2_5_vl"], ["cls-visual:keep=0.02"], short=True))
    assert [(o.family, o.case, o.verdict) for o in found] == [
        (family, "images", "inconclusive") for family in ("llava", "qwen2_5_vl")
    ]
    assert "no two images" in found[0].said


def test_runs_are_compared_up_to_where_they_part():
    logprobs = torch.full((3, 4), -2.0)
    one, other = Said([1, 2, 3], logprobs, 9), Said([1, 2, 0], logprobs.clone(), 9)
    other.logprobs[1, 0] += 0.5
    assert compare(one, other) == (0.25, False)
    other.logprobs[1, 0] -= 0.5
    assert compare(one, other._replace(ids=[1, 2, 3])) == (0, True)
    parted = Said([9, 2, 3], logprobs + torch.tensor([[0.0], [0.5], [0.5]]), 9)
    assert compare(parted, one) == (0, False)


def test_images_whose_tokens_are_odd_do_not_go_together(tmp_path, monkeypatch):
    """15 tokens, and 25: 8 and 13 of them stay alone, 20 of both."""
    model, processor = gp.load(save_checkpoint("mistral3", tmp_path))
    pruner = make_pruner("spatial", 0.5)
    monkeypatch.setattr(proof_images, "SIZES", ((40, 24), (36, 40)))
    with pytest.raises(Unproven, match="no two images"):
        choose_images(model, processor, [pruner])
    monkeypatch.setattr(proof_images, "SIZES", ((40, 24), (36, 40), (48, 32)))
    found = choose_images(model, processor, [pruner])
    assert [image.size for image in found.both] == [(40, 24), (48, 32)]
    assert found.dropped == [7]


def test_the_short_form_is_of_both_kinds_of_positions():
    assert short_form(list(ARCHITECTURES)) == ["llava", "qwen2_5_vl"]
    assert short_form(["llava_next"]) == ["llava_next"]


@pytest.fixture
def untested(monkeypatch, tmp_path):
    """A vLLM of another release. Gives the engines that proofs have started, and what was served."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(UNPROVEN, "0")  # which `serve` changes
    for module in (versions, stored_proofs):
        monkeypatch.setattr(module, "check_version", lambda: HERE.vllm)
    monkeypatch.setattr(stored_proofs, "_installation", lambda runner: replace(HERE, runner=runner))
    monkeypatch.delenv(SWITCH, raising=False)
    served = []
    monkeypatch.setattr("groundprune.integrations.vllm.running.run_vllm", served.append)
    started = []

    class Process:
        def __init__(self, compiled):
            started.append(compiled)

        def __enter__(self):
            return Stock()

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(proof_engine, "OtherProcess", Process)
    return started, served


def test_a_server_is_proven_once(untested, capsys):
    started, served = untested
    for _ in range(2):
        assert main(["serve", "pocket", "--keep", "0.5"]) == 0
    assert (len(started), len(served)) == (1, 2)
    assert capsys.readouterr().err.count("is proven first") == 1
    assert HERE.proven("llava")
    assert not HERE.proven("qwen2_5_vl")


def test_a_server_of_the_other_model_runner_is_proven_anew(untested, monkeypatch):
    started, _ = untested
    HERE.remember("llava")
    for value, proofs in (("0", 0), ("1", 1)):
        monkeypatch.setenv(SWITCH, value)
        assert main(["serve", "pocket", "--keep", "0.5"]) == 0
        assert len(started) == proofs


FAILED = Outcome("llava", "cls-visual", "one image", 5e-4, 0.25, True, verdict="FAILED", installation=HERE)
STOPPED = Outcome("llava", "cls-visual", "engine", 5e-4, reason="it did not start", verdict="FAILED")
OPEN = Outcome("llava", "cls-visual", "repeated prompt", 5e-4, 0, True, "no", "inconclusive", HERE)


def test_a_server_that_fails_its_proof_says_where_and_serves_nothing(untested, capsys, monkeypatch):
    started, served = untested
    monkeypatch.setattr(proof, "prove", lambda *_: [OPEN, FAILED])
    assert main(["serve", "pocket", "--keep", "0.5"]) == 2
    said = "is not proven: llava, cls-visual, one image: log-probabilities differ by 2.5e-01; 5e-04 is allowed"
    assert f"vLLM 9.9.0 {said}" in capsys.readouterr().err
    assert not HERE.proven("llava")
    assert not served
    assert main(["serve", "pocket", "--keep", "0.5", "--no-verify"]) == 0
    assert (len(started), len(served)) == (1, 1)


def test_verify_prints_a_table_rows_and_exit_codes(untested, capsys, monkeypatch):
    words = ["verify", "--engine", "vllm", "--short", "--family", "llava"]
    assert main(words) == 0
    assert "chunk that ends inside of an image" in capsys.readouterr().out
    assert HERE.proven("llava")
    monkeypatch.setattr(proof, "prove", lambda *_: [OPEN])
    assert main([*words, "--json"]) == 3
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verdict"], row["installation"]["vllm"]) == ("inconclusive", HERE.vllm)
    assert not HERE.proven("llava")  # what was stored is no longer true
    HERE.remember("llava")
    monkeypatch.setattr(proof, "prove", lambda *_: [OPEN, FAILED, STOPPED])
    assert main(words) == 1
    assert not HERE.proven("llava")
    assert "FAILED: llava, cls-visual, one image: log-prob" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "vllm", "--keep", "0.5"], "--keep needs --engine transformers"),
        (["--engine", "vllm", "--device", "cpu"], "--device needs --engine transformers"),
        (["--short"], "--short needs --engine vllm"),
        (["--dtype", "bfloat16"], "--dtype needs --engine vllm"),
        (["--engine", "vllm", "--family", "gemma3"], "unknown family served inside of vLLM 'gemma3'"),
        (["--engine", "vllm", "--dtype", "int8"], "unknown dtype 'int8'"),
    ],
)
def test_options_of_the_other_engine_are_refused(words, said, untested, capsys):
    assert main(["verify", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_proof_counts_for_what_it_ran_on(untested):
    HERE.remember("llava")
    assert HERE.proven("llava")
    others = [("vllm", "9.9.1"), ("torch", "2.14.0"), ("groundprune", "9"), ("device", "H100"), ("runner", "v2")]
    for name, value in others:
        assert not replace(HERE, **{name: value}).proven("llava")
    HERE.forget("llava")
    assert not HERE.proven("llava")
