"""A worker in the authors' environment: one method per process, for their code patches classes.

METHOD in the environment, with its own numbers: plain, visionzip:DOMINANT:CONTEXTUAL, divprune, fastv:LAYER:SHARE,
sparsevlm, fastervlm:TOKENS, pyramiddrop:LAYER,LAYER,LAYER. PYTHONPATH leads to the code.
"""

import importlib.util
import os
import sys
import types

import loop
import torch
import torch.utils._pytree as pytree
from shapes import ATTENTION, DEVICE, LLM, PIXELS, ROOT, SIDE, TOWER, WEIGHTS, N, prompts

METHOD, *NUMBERS = os.environ["METHOD"].split(":")

# What code of that time expects and a newer torch, or a machine without CUDA, lacks.
if not hasattr(pytree, "_register_pytree_node"):
    pytree._register_pytree_node = pytree.register_pytree_node
if DEVICE == "cpu":
    torch.cuda.synchronize = lambda *_: None

    class Event:
        """Of a device that is not there."""

        def __init__(self, **_):
            pass

        def record(self, *_):
            pass

        def elapsed_time(self, _):
            return 0.0

    torch.cuda.Event = Event
if METHOD == "fastv":  # step 5 of its README is an edit of transformers' file; here it is made in memory
    name = "transformers.models.llama.modeling_llama"
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before, after = "seq_len=kv_seq_len)", "seq_len=position_ids.max().item() + 1)"
    with open(spec.origin, encoding="utf-8") as file:
        text = file.read()
    text = text.replace(f"self.rotary_emb(value_states, {before}", f"self.rotary_emb(value_states, {after}")
    exec(compile(text, spec.origin, "exec"), module.__dict__)

import transformers  # noqa: E402 - after the edit of its files
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel  # noqa: E402


def model_of():
    """LLaVA's class, or the method's own, with the weights that all workers share."""
    torch.manual_seed(0)
    clip = f"{ROOT}/clip-{SIDE}"
    if not os.path.exists(clip):
        CLIPVisionModel(CLIPVisionConfig(**TOWER)).save_pretrained(clip)
        CLIPImageProcessor().save_pretrained(clip)
    if METHOD == "sparsevlm":
        from llava.model.language_model.sparse_llava_llama import LlavaConfig
        from llava.model.language_model.sparse_llava_llama import LlavaLlamaDynamicForCausalLM as Model
    elif METHOD == "pyramiddrop":
        from llava.model.language_model.llava_llama_pdrop import LlavaConfig
        from llava.model.language_model.llava_llama_pdrop import LlavaLlamaForCausalLM_PDrop as Model
    else:
        from llava.model.language_model.llava_llama import LlavaConfig
        from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM as Model
    config = LlavaConfig(**LLM, attn_implementation=ATTENTION)
    config.mm_vision_tower, config.mm_vision_select_layer, config.mm_vision_select_feature = clip, -2, "patch"
    config.mm_hidden_size, config.mm_projector_type = TOWER["hidden_size"], "mlp2x_gelu"
    config.use_mm_proj, config.tokenizer_padding_side = True, "right" if METHOD == "pyramiddrop" else "left"
    config.tokenizer_model_max_length = LLM["max_position_embeddings"]
    model = Model(config).eval()
    model.get_vision_tower().load_model()
    if not os.path.exists(WEIGHTS):
        torch.save(model.state_dict(), WEIGHTS)
    found = model.load_state_dict(torch.load(WEIGHTS), strict=False)
    odd = [k for k in found.missing_keys + found.unexpected_keys if "position_ids" not in k and "inv_freq" not in k]
    assert not odd, odd
    return model.to(DEVICE)


model = model_of()
extra = {}
if METHOD == "visionzip":
    from visionzip import visionzip

    model = visionzip(model, dominant=int(NUMBERS[0]), contextual=int(NUMBERS[1]))
elif METHOD == "fastv":
    with open(os.environ["FASTV"], encoding="utf-8") as file:
        text = file.read()
    settings = {  # which the file has as constants
        "K = 3\n": f"K = {NUMBERS[0]}\n", "ratio = 0.5\n": f"ratio = {NUMBERS[1]}\n", "35:611": f"35:{35 + N}",
        "576 * ratio": f"{N} * ratio", "arange(611,": f"arange({35 + N},",
    }  # fmt: skip
    for constant, setting in settings.items():
        assert constant in text
        text = text.replace(constant, setting)
    space = {"__name__": "fastv_kvcache"}
    exec(compile(text, "fastv_kvcache", "exec"), space)
    model.model.last_attention = None
    model.model.forward = types.MethodType(space["FastVLlamaModel"].forward, model.model)
elif METHOD == "fastervlm":
    model.visual_token_num = int(NUMBERS[0])
elif METHOD == "pyramiddrop":
    model.model.layer_list = [int(layer) for layer in NUMBERS[0].split(",")]
    model.model.image_token_ratio_list = [1.0, 0.5, 0.25, 0.125]
elif METHOD == "sparsevlm":
    extra = {"image_shape": N}


def call(_, rows):
    """Logits of the last token of each prompt."""
    ids = prompts(rows, [-200])
    mask = torch.ones_like(ids)
    given = {"images": PIXELS[rows], "use_cache": True, **extra}
    if METHOD == "fastervlm":  # its forward cannot take what its own preparation gives: `generate` calls that before
        found = model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, PIXELS[rows])
        output = model(inputs_embeds=found[4], position_ids=found[1], attention_mask=found[2], use_cache=True)
    elif METHOD == "pyramiddrop":  # a mask becomes one of bools there, which transformers cannot expand
        output = model(input_ids=ids, **given)
    else:
        output = model(input_ids=ids, attention_mask=mask, **given)
    if isinstance(output, tuple):  # beside something else
        (output,) = [part for part in output if hasattr(part, "logits")]
    return output.logits[:, -1]


loop.serve(call, {"torch": torch.__version__, "transformers": transformers.__version__, "attention": ATTENTION})
