"""Where the answer looks: attention of its tokens over the image, before and after something is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from groundprune.checkpoints.load import grounding_of
from groundprune.evaluation.interventions import Intervention, chosen
from groundprune.evaluation.lengths import max_new_tokens
from groundprune.evaluation.specs import Setting
from groundprune.probes.attention import AttentionCall, probe
from groundprune.pruning.inputs import PrunedInputs, prune_inputs
from groundprune.studies.parts.asking import Asked, batches
from groundprune.studies.parts.forcing import regions_of
from groundprune.studies.study import Bench

ATTENTION = "attention"  # the step of `measure_attention`


def measure_attention(
    bench: Bench, settings: Mapping[str, Setting], interventions: Mapping[str, Intervention], count: int
) -> None:
    """The step ATTENTION, of the first samples: by name of a setting and id of a sample what `looks` says.

    Attention is that of the tokens of an answer (each as it was predicted), the mean over them and over all heads
    and layers.

    Args:
        bench: its data hold samples with boxes alone.
        settings: before the LLM, by name.
        interventions: that they name.
        count: of samples.
    """

    @torch.inference_mode()
    def work() -> dict[str, Any]:
        found: dict[str, Any] = {name: {} for name in settings}
        for asked in batches(bench, bench.data.samples[:count]):
            samples, _, truths = asked
            whole = prune_inputs(bench.model, asked[1], Setting.of().make_pruner())
            before = attention_over_image(bench, asked, whole)
            targets = [regions_of(truths, layout)["target"] for layout in whole.layout]
            for name, setting in settings.items():
                pruner, policy = chosen(setting, bench.model.config, interventions, truths)
                short = prune_inputs(bench.model, asked[1], pruner, policy, [sample.text for sample in samples])
                after = attention_over_image(bench, asked, short)
                for i, sample in enumerate(samples):
                    found[name][sample.id] = looks(before[i], after[i], short.kept[i], targets[i])
        return found

    bench.step(ATTENTION, work)


def looks(before: Tensor, after: Tensor, kept: Tensor, target: Tensor) -> dict[str, float]:
    """What became of an answer's attention over the image.

    Args:
        before: Float[N], attention to each token with all in place.
        after: Float[N], with some dropped; 0 at those.
        kept: Long[K], the others.
        target: Bool[N].

    Returns:
        image, image_before: attention that the image got in all, 0..1. target, entropy: of what it got the share of
        the target, and its entropy in bits. target_before, entropy_before: with all tokens in place.
        target_left, entropy_left: if what the dropped ones got before were spread in proportion over the others, so
        that nothing but their absence had an effect.
    """
    left = torch.zeros_like(before).index_copy(0, kept, before[kept])
    said: dict[str, float] = {"image": float(after.sum()), "image_before": float(before.sum())}
    for name, attention in (("", after), ("_before", before), ("_left", left)):
        share = attention / attention.sum().clamp(min=1e-12)
        said[f"target{name}"] = float(share[target].sum())
        said[f"entropy{name}"] = float(-(share * share.clamp(min=1e-12).log2()).sum())
    return {name: round(value, 6) for name, value in said.items()}


def attention_over_image(bench: Bench, asked: Asked, short: PrunedInputs) -> list[Tensor]:
    """Float[N] per prompt row, see `measure_attention`; 0 at dropped tokens. Of layers with attention alone."""
    model, tokenizer, samples = bench.model, bench.processor.tokenizer, asked[0]
    layers = [layer.self_attn for layer in model.get_decoder().layers if hasattr(layer, "self_attn")]
    grounding, sizes = grounding_of(model), asked[2].sizes
    texts = {sample.text for sample in samples}
    limit = max_new_tokens(bench.processor, grounding, "native", samples[0].kind, texts, sizes)
    with probe({layer: {i: _last_query} for i, layer in enumerate(layers)}) as calls:
        output = model.generate(**short, max_new_tokens=limit, do_sample=False, num_beams=1)
    said = output[:, short["input_ids"].shape[1] :]
    ends = torch.tensor(sorted({*_ends(model), tokenizer.pad_token_id} - {None}), device=said.device)
    lengths = (torch.isin(said, ends).cumsum(1) == 0).sum(1).clamp(min=1)
    found = []
    for row, (layout, kept) in enumerate(zip(short.layout, short.kept, strict=True)):
        slots = short.prompt.segments[0].compaction.slots_of(layout.column[kept], row)
        steps = range(int(lengths[row]))
        mine = torch.stack([torch.stack([calls[i][t][row, slots] for t in steps]) for i in range(len(layers))])
        attention = torch.zeros(len(layout), device=mine.device, dtype=mine.dtype)
        found.append(attention.index_copy(0, kept.to(mine.device), mine.mean((0, 1))))
    return found


def _last_query(call: AttentionCall) -> Tensor:
    """[B, L]: attention of the last query over all keys, mean over heads."""
    return call.rows(slice(-1, None))[:, :, 0].mean(1)


def _ends(model: Any) -> Sequence[int | None]:
    given = model.generation_config.eos_token_id
    return given if isinstance(given, list) else [given]
