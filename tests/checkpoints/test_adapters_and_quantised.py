"""`gp.load` of what `from_pretrained` makes of a checkpoint: adapters, quantised weights, other places and files."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import groundprune as gp
from groundprune.checkpoints import load as loading
from groundprune.checkpoints.load import OPTIONS, grounding_of
from groundprune.cli import main
from groundprune.evaluation.identity import weights_fingerprint
from groundprune.exactness.verify import relative_difference
from groundprune.pocket import checkpoint_path
from support.checkpoints import save_tiny_llava
from support.generating import GREEDY
from support.quantising import WEIGHTS_ALONE, asked, quantised_pocket

PRUNER = gp.ClsVisual(keep=0.5)
LLM = r".*language_model.*\.(q_proj|v_proj)"
TOWER = r".*vision_tower.*\.(q_proj|v_proj|fc1)"


def adapter(folder, targets=LLM, seed=7, **options):
    """A folder as PEFT saves it, of an adapter that changes what the pocket says."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    settings = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **options)
    peft.get_peft_model(gp.load("pocket", "cpu")[0], settings).save_pretrained(folder)
    return folder


def logits(model, inputs, policy=None):
    with torch.no_grad():
        if policy is None:
            return model(**inputs).logits[:, -1]
        return model(**gp.prune_inputs(model, inputs, PRUNER, policy)).logits[:, -1]


class TestAdapters:
    @pytest.mark.parametrize(
        ("targets", "options"),
        [(LLM, {}), (TOWER, {}), (["q_proj"], {"modules_to_save": ["multi_modal_projector"]})],
        ids=["llm", "tower", "modules to save"],
    )
    def test_a_folder_gives_base_and_adapter(self, targets, options, tmp_path):
        """As PEFT itself puts them together; switched off, the base is left."""
        peft = pytest.importorskip("peft")
        folder = adapter(tmp_path, targets, **options)
        plain, _ = gp.load("pocket", "cpu")
        model, processor = gp.load(folder, "cpu")
        inputs = asked(model, processor)
        stock = logits(plain, inputs, "preserved")
        wanted = logits(peft.PeftModel.from_pretrained(gp.load("pocket", "cpu")[0], folder).eval(), inputs)
        assert relative_difference([logits(model, inputs)], [wanted]) < 1e-5
        assert gp.verify(model, inputs, PRUNER, steps=2).passed
        on = logits(model, inputs, "preserved")
        model.disable_adapters()
        off = logits(model, inputs, "preserved")
        model.enable_adapters()
        assert relative_difference([off], [stock]) < 1e-5
        assert relative_difference([on], [stock]) > 1e-2
        assert grounding_of(model) == grounding_of(plain)

    def test_two_adapters_are_switched_in_the_pruned_path_and_merging_changes_nothing(self, tmp_path):
        peft = pytest.importorskip("peft")
        first, second = adapter(tmp_path / "a"), adapter(tmp_path / "b", seed=8)
        wanted = {}
        for name, folder in (("default", first), ("b", second)):
            model, processor = gp.load(folder, "cpu")
            inputs = asked(model, processor)
            wanted[name] = logits(model, inputs, "preserved")
        assert relative_difference([wanted["b"]], [wanted["default"]]) > 1e-2
        both, _ = gp.load(first, "cpu")
        both.load_adapter(str(second), adapter_name="b")
        for name in ("b", "default"):
            both.set_adapter(name)
            assert relative_difference([logits(both, inputs, "preserved")], [wanted[name]]) < 1e-5
        wrapped = peft.PeftModel.from_pretrained(gp.load("pocket", "cpu")[0], first)
        merged = wrapped.merge_and_unload().eval()
        assert relative_difference([logits(merged, inputs, "preserved")], [wanted["default"]]) < 1e-4

    def test_an_adapter_on_quantised_weights(self, tmp_path):
        pytest.importorskip("bitsandbytes")
        from transformers import BitsAndBytesConfig

        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        model, processor = gp.load(adapter(tmp_path), "cpu", quantization_config=nf4)
        inputs = asked(model, processor)
        assert gp.verify(model, inputs, PRUNER, steps=2).passed
        with_it = logits(model, inputs, "preserved")
        model.disable_adapters()
        assert relative_difference([logits(model, inputs, "preserved")], [with_it]) > 1e-2

    def test_the_adapters_own_processor_goes_first(self, tmp_path):
        folder = adapter(tmp_path)
        _, processor = gp.load(folder, "cpu")
        processor.chat_template = "{{ 'its own' }}"
        processor.save_pretrained(folder)
        assert gp.load(folder, "cpu")[1].chat_template == "{{ 'its own' }}"

    def test_what_is_wrong_with_one_is_one_line(self, tmp_path):
        folder = adapter(tmp_path)
        weights = load_file(folder / "adapter_model.safetensors")
        lost = min(weights)
        save_file({k: v for k, v in weights.items() if k != lost}, folder / "adapter_model.safetensors")
        with pytest.raises(gp.GroundPruneError, match="lacks 1 of its weights"):
            gp.load(folder, "cpu")
        about = folder / "adapter_config.json"
        given = json.loads(about.read_text())
        about.write_text(json.dumps({**given, "base_model_name_or_path": str(tmp_path / "gone")}))
        with pytest.raises(gp.GroundPruneError, match=r"no checkpoint at .*gone"):
            gp.load(folder, "cpu")
        about.write_text(json.dumps({**given, "base_model_name_or_path": None}))
        with pytest.raises(gp.GroundPruneError, match="base_model_name_or_path"):
            gp.load(folder, "cpu")

    def test_without_peft_the_extra_is_named(self, tmp_path, monkeypatch):
        folder = adapter(tmp_path)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(gp.GroundPruneError, match=r"groundprune\[adapters\]"):
            gp.load(folder, "cpu")


class TestQuantised:
    @pytest.mark.parametrize("kind", WEIGHTS_ALONE)
    def test_pruned_prompts_are_answered_and_ids_matter(self, kind):
        model, processor = quantised_pocket(kind)
        inputs = asked(model, processor)
        with gp.prune(model, PRUNER) as run:
            pruned = model.generate(**inputs, max_new_tokens=8, **GREEDY)
        assert len(run.kept[0]) == 72
        said = pruned.sequences[:, inputs["input_ids"].shape[1] :]
        short = gp.prune_inputs(model, inputs, PRUNER)
        again = model.generate(**short, max_new_tokens=8, **GREEDY)
        assert again.sequences[:, short["input_ids"].shape[1] :].equal(said)
        apart = relative_difference([logits(model, inputs, "reassigned")], [logits(model, inputs, "preserved")])
        assert apart > 1e-1

    @pytest.mark.parametrize("kind", WEIGHTS_ALONE)
    def test_a_fingerprint_tells_weights_and_formats_apart_and_changes_none(self, kind):
        model, processor = quantised_pocket(kind)
        inputs, before = asked(model, processor), weights_fingerprint(model)
        first = logits(model, inputs)
        weights_fingerprint(model)
        assert logits(model, inputs).equal(first)
        assert before == weights_fingerprint(quantised_pocket(kind)[0])
        others = [gp.load("pocket", "cpu")[0], quantised_pocket("torchao-int8-per-token")[0]]
        assert before not in {weights_fingerprint(each) for each in others}


@pytest.mark.parametrize("kind", ["torchao-int8", "nf4", "adapter"])
def test_a_folder_goes_through_every_command(kind, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    if kind == "adapter":
        adapter(folder)
    else:
        model, processor = quantised_pocket(kind)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        shutil.copy(checkpoint_path() / "grounding.json", folder)
    monkeypatch.chdir(tmp_path)
    assert main(["scene", "--seed", "7", "scene.png"]) == 0
    pruned = ["--model", str(folder), "--device", "cpu", "--pruner", "cls-visual", "--keep", "0.5"]
    code = main(["ground", "scene.png", "the small purple object", *pruned])
    assert code == 0 or (code == 1 and kind == "adapter"), "a random adapter may give no box"
    assert main(["ask", "scene.png", "how many stars", *pruned]) == 0
    words = ["evaluate", *pruned, "--data", "scenes", "--limit", "6", "--out", "run", "--json"]
    found = []
    for _ in range(2):  # the second goes on with the first
        capsys.readouterr()
        assert main(words) == 0
        found.append(json.loads(capsys.readouterr().out)["settings"])
    assert found[0] == found[1]
    if kind != "adapter":
        right = {each["id"]: each["rec"]["total"]["accuracy"] for each in found[0]}
        assert right["unpruned"] > 0.8


class TestOptions:
    @pytest.fixture
    def checkpoint(self, tmp_path):
        return save_tiny_llava(tmp_path / "tiny")

    def test_an_unknown_one_is_refused_with_those_that_there_are(self, checkpoint):
        with pytest.raises(gp.GroundPruneError, match="did you mean 'quantization_config'") as told:
            gp.load(checkpoint, quantisation_config=1)
        assert all(name in str(told.value) for name in OPTIONS)

    def test_a_device_and_a_map_contradict_each_other(self, checkpoint):
        with pytest.raises(gp.GroundPruneError, match="either device='cpu' or device_map"):
            gp.load(checkpoint, "cpu", device_map="auto")

    def test_the_attention_is_the_one_asked_for(self, checkpoint):
        assert gp.load(checkpoint, "cpu", attn_implementation="eager")[0].config._attn_implementation == "eager"

    def test_where_files_come_from_reaches_config_weights_and_processor(self, checkpoint, monkeypatch):
        given = {"revision": "abc", "cache_dir": str(checkpoint), "token": "secret", "local_files_only": True}
        seen = {}

        def watch(owner, name, key):
            original = getattr(owner, name)

            def call(*args, **options):
                seen[key] = options
                return original(*args, **options)

            monkeypatch.setattr(owner, name, call)

        watch(loading.AutoConfig, "from_pretrained", "config")
        watch(loading.AutoModelForImageTextToText, "from_pretrained", "weights")
        watch(loading, "load_processor", "processor")
        gp.load(checkpoint, "cpu", **given)
        for key in ("config", "weights", "processor"):
            assert {name: seen[key].get(name) for name in given} == given, key
        assert seen["weights"]["trust_remote_code"] is False

    def test_only_files_of_this_machine(self):
        with pytest.raises(gp.GroundPruneError, match="not in the cache"):
            gp.load("nobody/nothing", local_files_only=True)
