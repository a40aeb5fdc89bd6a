"""What else an engine of vLLM does goes together with pruning: adapters, and chats."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import groundprune as gp
from groundprune.integrations.vllm.server import chat_template
from support.engines import STEPS, TOLERANCE, asked, by_transformers, difference, engine, photo, prompt, say

FAMILIES = {"llava": (48, 48), "qwen2_5_vl": (64, 48)}
PRUNER = gp.ClsVisual(keep=0.5)
RANK, ALPHA = 8, 16


@pytest.fixture(scope="module", params=FAMILIES)
def served(request, checkpoint):
    """(family, folder, engine that takes adapters, model, processor)"""
    folder, model, processor = checkpoint(request.param)
    with engine(folder, PRUNER, enable_lora=True, max_lora_rank=RANK) as llm:
        yield request.param, folder, llm, model, processor


def write_adapter(folder, model):
    """Of the LLM's queries and values, as PEFT writes it; the model with it merged."""
    generator, weights, merged = torch.Generator().manual_seed(0), {}, copy.deepcopy(model)
    for name, module in merged.named_modules():
        if "language_model" in name and name.endswith(("q_proj", "v_proj")):
            down = torch.randn(RANK, module.in_features, generator=generator) / module.in_features**0.5
            up = torch.randn(module.out_features, RANK, generator=generator)
            weights |= {
                f"base_model.model.{name}.lora_A.weight": down,
                f"base_model.model.{name}.lora_B.weight": up,
            }
            module.weight.data += ALPHA / RANK * up @ down
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
             "target_modules": ["q_proj", "v_proj"]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return merged


def test_an_adapter_of_the_llm_is_exact(served, tmp_path):
    """And the same image's tokens serve with it and without."""
    from vllm.lora.request import LoRARequest

    family, _, llm, model, processor = served
    merged = write_adapter(tmp_path / "adapter", model)
    request = (prompt(processor, 1, "the red circle w20"), [photo(0, *FAMILIES[family])])
    adapter = LoRARequest("adapter", 1, str(tmp_path / "adapter"))
    adapted = say(llm, [asked(*request)], lora_request=adapter)
    plain = say(llm, [asked(*request)])
    with_it, without = (by_transformers(each, processor, [request], PRUNER) for each in (merged, model))
    assert difference(adapted, with_it) < TOLERANCE
    assert difference(plain, without) < TOLERANCE
    assert difference(adapted, plain) > 1


def test_a_chat_is_its_prompt(served):
    from vllm import SamplingParams

    family, folder, llm, _, processor = served
    images, words = [photo(i, *FAMILIES[family]) for i in (0, 1)], "the red circle w20"
    file = chat_template(folder)
    template = processor.chat_template if file is None else Path(file).read_text(encoding="utf-8")
    content = [{"type": "image_pil", "image_pil": image} for image in images] + [{"type": "text", "text": words}]
    greedy = SamplingParams(temperature=0, max_tokens=STEPS, ignore_eos=True)
    given, read = asked(prompt(processor, 2, words), images), []
    for options in (None, {"groundprune": {"keep": 0.25}}):
        (chatted,) = llm.chat(
            [{"role": "user", "content": content}], greedy, use_tqdm=False, chat_template=template,
            chat_template_content_format="openai", mm_processor_kwargs=options,
        )  # fmt: skip
        (prompted,) = llm.generate([{**given, "mm_processor_kwargs": options}], greedy, use_tqdm=False)
        assert chatted.prompt_token_ids == prompted.prompt_token_ids
        assert chatted.outputs[0].token_ids == prompted.outputs[0].token_ids
        read.append(len(chatted.prompt_token_ids))
    assert read[0] > read[1]
