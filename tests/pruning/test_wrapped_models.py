"""Models that adapters, compilers and trainers wrap are pruned as the model inside is, and no image passes unseen."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from support.generating import GREEDY, TOLERANCE, snapshot
from support.inside import LastRow

PRUNERS = [gp.Spatial(keep=0.4), LastRow(keep=0.4)]
each_pruner = pytest.mark.parametrize("pruner", PRUNERS, ids=["before", "inside"])


def generate(model, inputs, **options):
    return model.generate(**inputs, **{"max_new_tokens": 5, **GREEDY, **options})


def lora(model, targets, **options):
    peft = pytest.importorskip("peft")
    torch.manual_seed(7)
    return peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **options)  # random: it acts


def on_llm(model):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, lora(model, r".*language_model.*\.(q_proj|v_proj)"))


def on_tower(model):
    peft = pytest.importorskip("peft")
    names = r".*(vision_tower|visual).*(q_proj|k_proj|qkv|fc1)"
    return peft.get_peft_model(model, lora(model, names))


def saved_whole(model):
    """An adapter that trains the output layer too: PEFT puts a wrapper of its own around it."""
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, lora(model, ["q_proj"], modules_to_save=["lm_head"]))


def added(model):
    pytest.importorskip("peft")
    model.add_adapter(lora(model, r".*language_model.*\.(q_proj|v_proj)"))
    return model


def merged(model):
    return on_llm(model).merge_and_unload()


def compiled(model):
    torch.compiler.reset()
    return torch.compile(model, backend="eager")


def prepared(model):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True).prepare(model)


WRAPPERS = [on_llm, on_tower, saved_whole, added, merged, compiled, prepared]


@each_pruner
@pytest.mark.parametrize(
    ("name", "wrap"),
    [*(("llava", wrap) for wrap in WRAPPERS), ("qwen2_5_vl", on_llm), ("gemma3", on_llm)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_generate_and_forward_of_a_wrapped_model_equal_the_oracle(name, wrap, pruner):
    model = tiny_model(name, layers=2)
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    wrapped = wrap(model)
    inner = wrapped.get_base_model() if wrap in (on_llm, on_tower, saved_whole) else model
    stock = generate(wrapped, inputs).logits[:1]  # transformers leaves hooks of its own in the first forward
    torch.compiler.reset()
    before = snapshot(inner)
    with gp.prune(wrapped, pruner) as run, torch.no_grad():
        pruned, logits = generate(wrapped, inputs), wrapped(**inputs).logits
    assert snapshot(inner) == before
    torch.compiler.reset()  # the oracle's hooks must be seen
    with hide(inner, hidden_columns(run.prompt)), torch.no_grad():
        wanted, whole = generate(inner, inputs), inner(**inputs).logits
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE
    assert relative_difference([logits[:, -1]], [whole[:, -1]]) < TOLERANCE
    assert relative_difference(stock, wanted.logits[:1]) > 1e-2


@each_pruner
def test_a_wrapper_that_is_called_while_the_model_inside_is_pruned(pruner):
    model = tiny_model("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    wrapped = on_llm(model)
    with gp.prune(wrapped, pruner):
        wanted = generate(wrapped, inputs)
    with gp.prune(wrapped.get_base_model(), pruner) as run:
        got = generate(wrapped, inputs)
    assert got.sequences.equal(wanted.sequences)
    assert len(run.kept[0]) < 36


def test_gradients_reach_an_adapter_through_a_pruned_prompt():
    wrapped = on_llm(tiny_model("llava"))
    inputs = tiny_inputs(wrapped, [(1, 5, 7)])
    with gp.prune(wrapped, gp.Spatial(keep=0.4)):
        wrapped(**inputs, labels=inputs["input_ids"]).loss.backward()
    found = [p.grad for n, p in wrapped.named_parameters() if "lora_A" in n]
    assert found
    assert all(grad is not None and bool(grad.any()) for grad in found)


def test_generate_holds_no_graph_of_the_tower():
    """Stock `generate` runs without gradients: a graph would keep the tower's states until the last token."""
    model = tiny_model("llava")
    inputs, seen = tiny_inputs(model, [(1, 5, 7)]), []
    hook = lambda *given: seen.append(given[-1].requires_grad)  # noqa: E731
    model.model.multi_modal_projector.register_forward_hook(hook)
    with gp.prune(model, gp.Spatial(keep=0.4)):
        generate(model, inputs)
        model(**inputs)
    assert seen == [False, True]


def test_distributed_data_parallel(tmp_path):
    model = tiny_model("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        with torch.no_grad(), gp.prune(wrapped, gp.Spatial(keep=0.4)):
            pruned = wrapped(**inputs).logits
    finally:
        torch.distributed.destroy_process_group()
    with torch.no_grad(), gp.prune(model, gp.Spatial(keep=0.4)):
        assert pruned.equal(model(**inputs).logits)


def test_encode_and_verify_take_a_wrapped_model():
    wrapped = on_llm(tiny_model("llava"))
    inputs = tiny_inputs(wrapped, [(1, 5, 7)])
    assert gp.verify(wrapped, inputs, gp.Spatial(keep=0.4)).passed
    encoded = gp.encode(wrapped, inputs, [gp.Spatial(keep=0.4)]).select([0])
    words = {k: v for k, v in inputs.items() if k != "pixel_values"}
    with gp.prune(wrapped, gp.Spatial(keep=0.4)):
        wanted = generate(wrapped, inputs)
        assert generate(wrapped, {**words, "mm_encoder_outputs": encoded}).sequences.equal(wanted.sequences)


@each_pruner
def test_a_model_that_ran_compiled_before(pruner):
    """What was compiled then knows nothing of hooks on the layers."""
    model = tiny_model("llava", layers=2)
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with torch.no_grad(), gp.prune(model, pruner):
        wanted = model(**inputs).logits
    wrapped = compiled(model)
    with torch.no_grad():
        stock = wrapped(**inputs).logits
        with gp.prune(wrapped, pruner):
            got = wrapped(**inputs).logits
        assert wrapped(**inputs).logits.equal(stock)
    assert relative_difference([got[:, -1]], [wanted[:, -1]]) < TOLERANCE


class Wrapper(torch.nn.Module):
    """Of a kind that nobody knows; what it lacks it takes from the model inside."""

    def __init__(self, model):
        super().__init__()
        self.inside = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inside"), name)


@pytest.mark.parametrize("wrap", [Wrapper, torch.nn.DataParallel])
def test_an_unknown_wrapper_is_refused_by_name(wrap):
    model = tiny_model("llava")
    with pytest.raises(gp.GroundPruneError, match=f"got a {wrap.__name__}"), gp.prune(wrap(model), PRUNERS[0]):
        pass


class TestWarnings:
    @pytest.fixture(scope="class")
    @staticmethod
    def model():
        return tiny_model("llava")

    @pytest.fixture(scope="class")
    @staticmethod
    def inputs(model):
        return tiny_inputs(model, [(1, 5, 7)])

    @pytest.mark.parametrize(
        "call",
        [
            lambda model, inputs: model.model(**inputs),
            lambda model, inputs: model.get_image_features(pixel_values=inputs["pixel_values"]),
        ],
        ids=["base model", "features alone"],
    )
    def test_images_that_passed_unpruned_are_told_of_once(self, model, inputs, call):
        """Also where another image was pruned."""

        def careless():
            with torch.no_grad(), gp.prune(model, PRUNERS[0]):
                model(**inputs)
                for _ in range(3):
                    call(model, inputs)

        with pytest.warns(UserWarning, match="did not prune every image: in 3 call") as told:
            careless()
        assert len(told) == 1
        assert told[0].filename == __file__

    @pytest.mark.parametrize("pruner", [*PRUNERS, gp.Spatial(keep=1)], ids=["before", "inside", "all kept"])
    def test_no_word_of_images_that_were_pruned_refused_or_encoded_before(self, model, inputs, pruner):
        encoded = gp.encode(model, inputs, [pruner]).select([0])
        words = {k: v for k, v in inputs.items() if k != "pixel_values"}
        flipped = {
            **inputs,
            "attention_mask": 1 - torch.eye(1, inputs["input_ids"].shape[1], dtype=torch.long).flip(1),
        }
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error")
            with gp.prune(model, pruner):
                for options in ({}, {"num_beams": 2}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}):
                    generate(model, inputs, **{"max_new_tokens": 2, **options})
                generate(model, {**words, "mm_encoder_outputs": encoded})
                outputs = model.get_image_features(pixel_values=inputs["pixel_values"])
                model(**words, mm_encoder_outputs={"image": outputs})
                with pytest.raises(gp.Unservable, match="left padding"):
                    generate(model, flipped)
                generate(model, {"input_ids": torch.tensor([[5, 6, 7]])})

    def test_an_exception_is_all_that_is_said(self, model, inputs):
        def fails():
            with torch.no_grad(), gp.prune(model, PRUNERS[0]):
                model.model(**inputs)
                raise ZeroDivisionError

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ZeroDivisionError):
                fails()


class TestThreads:
    """One context, many threads: each gets what it would get alone."""

    @pytest.fixture(scope="class")
    @staticmethod
    def model():
        return tiny_model("llava")

    @pytest.mark.parametrize(
        "pruner", [*PRUNERS, gp.ClsVisual(keep=0.4)], ids=["before", "inside", "by the tower's attention"]
    )
    def test_concurrent_generate(self, model, pruner):
        prompts = [tiny_inputs(model, [(1, 5 + i, 7)], seed=i) for i in range(4)]
        with gp.prune(model, pruner):
            wanted = [generate(model, inputs).sequences for inputs in prompts]
            with ThreadPoolExecutor(4) as pool:
                got = list(pool.map(lambda inputs: generate(model, inputs).sequences, prompts * 3))
        assert all(a.equal(b) for a, b in zip(got, wanted * 3, strict=True))

    @each_pruner
    def test_concurrent_loops_of_ones_own_beside_generate(self, model, pruner):
        prompts = [tiny_inputs(model, [(1, 5 + i, 7)], seed=i) for i in range(4)]

        def loop(inputs):
            said, cache = [], None
            with torch.no_grad():
                step = inputs
                for _ in range(5):
                    out = model(**step, past_key_values=cache)
                    said.append(out.logits[:, -1:].argmax(-1))
                    step, cache = {"input_ids": said[-1]}, out.past_key_values
            return torch.cat([inputs["input_ids"], *said], 1)

        def either(job):
            return loop(job[1]) if job[0] % 2 else generate(model, job[1]).sequences

        with gp.prune(model, pruner, "reassigned"):
            wanted = [generate(model, inputs).sequences for inputs in prompts]
            with ThreadPoolExecutor(4) as pool:
                got = list(pool.map(either, enumerate([inputs for inputs in prompts for _ in range(2)])))
        assert all(a.equal(wanted[i // 2]) for i, a in enumerate(got))

    def test_a_failure_in_one_thread_is_not_anothers(self, model):
        prompts = [tiny_inputs(model, [(1, 5, 7)], seed=i) for i in range(6)]
        for inputs in prompts[::2]:
            inputs["attention_mask"][:, 10:12] = 0  # hides image tokens

        def attempt(inputs):
            try:
                return generate(model, inputs).sequences
            except gp.Unservable:
                return None

        with gp.prune(model, PRUNERS[0]):
            wanted = [generate(model, inputs).sequences for inputs in prompts[1::2]]
            with ThreadPoolExecutor(3) as pool:
                got = list(pool.map(attempt, prompts))
        assert got[::2] == [None] * 3
        assert all(a.equal(b) for a, b in zip(got[1::2], wanted, strict=True))


@pytest.mark.parametrize("pruner", PRUNERS, ids=["before", "inside"])
@pytest.mark.parametrize("policy", ["preserved", "reassigned"])
def test_a_generate_that_was_taken_before_the_context(pruner, policy):
    """As pipelines and partial functions hold it: its forwards are pruned like those of a loop of one's own."""
    model = tiny_model("llava")
    inputs, held = tiny_inputs(model, [(1, 5, 7), (2, 2, 4)]), model.generate
    options = {"max_new_tokens": 4, "do_sample": False}
    with gp.prune(model, pruner, policy) as run:
        wanted = model.generate(**inputs, **options)
        kept = run.kept
        got = held(**inputs, **options)
        assert all(a.equal(b) for a, b in zip(run.kept, kept, strict=True))
    assert got.equal(wanted)
