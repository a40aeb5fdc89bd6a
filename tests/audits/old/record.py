"""A planted patch in transformers 4.37.2, recorded: `python record.py path/to/recorder.py llava-4.37.2.audit`.

In an environment of its own; torch, and nothing of groundprune but the one file. Image features are dropped where
that version merges them with words, and ids counted anew, as forks of it did.
"""

import importlib.util
import sys

import torch
import transformers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

SIDE, IMAGE = 4, 60
KEPT = torch.tensor([0, 3, 4, 6, 9, 11, 13])


def tiny():
    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=4 * SIDE,
        patch_size=4, projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_index=IMAGE, pad_token_id=0)
    model = LlavaForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            fan_in = 2 if "embed" in name else weight.shape[1:].numel()
            torch.nn.init.normal_(weight, std=1.4 / fan_in**0.5)
    return model


def patch(model):
    merge = model._merge_input_ids_with_image_features

    def pruned(*args, **kwargs):
        embeds, mask, labels, _ = merge(*args, **kwargs)
        taken = torch.cat([torch.arange(3), 3 + KEPT, torch.arange(3 + SIDE**2, embeds.shape[1])])
        return embeds[:, taken], mask[:, taken], labels, torch.arange(len(taken))[None]

    model._merge_input_ids_with_image_features = pruned


def main(recorder_file, out):
    spec = importlib.util.spec_from_file_location("recorder", recorder_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, ids = tiny(), torch.tensor([[1, 5, 9, IMAGE, 11, 12, 13, 14]])
    pixels = torch.randn(1, 3, 4 * SIDE, 4 * SIDE)
    inputs = {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}
    recorder = module.Recorder(model)
    with torch.no_grad(), recorder.recording("reference"):
        model(**inputs)
    patch(model)
    with torch.no_grad(), recorder.recording("audited"):
        output = model(**inputs, use_cache=True)
        for _ in range(2):
            word = output.logits[:, -1:].argmax(-1)
            output = model.language_model(input_ids=word, past_key_values=output.past_key_values)
    recorder.save(out, transformers=transformers.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
