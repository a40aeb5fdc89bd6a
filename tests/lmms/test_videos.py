"""Videos by path, in the families that take them; their processors need torchvision, which is here."""

import av
import numpy as np
import pytest
import torch

import groundprune as gp
from groundprune.evaluation.generating import How
from groundprune.integrations.lmms.answering import Answerer
from groundprune.integrations.lmms.decoding import Decoding
from groundprune.integrations.lmms.messages import of_context
from groundprune.integrations.lmms.videos import video_arguments
from groundprune.pruning.context import prune
from groundprune.tokens.positions import parse_policy
from support.checkpoints import save_tiny

STEPS = 6


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, frames in enumerate((4, 6)):
        drawn = np.random.default_rng(seed).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)
        with av.open(str(folder / f"{seed}.mp4"), "w") as file:
            stream = file.add_stream("mpeg4", rate=2)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for frame in drawn:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
    return [str(folder / f"{seed}.mp4") for seed in range(2)]


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_videos_are_pruned_as_gp_prune_does(family, videos, tmp_path):
    model, processor = gp.load(save_tiny(family, tmp_path))
    mark = processor.video_token
    processor.chat_template = (
        "{% for part in messages[0]['content'] %}{% if part['type'] == 'video' %}"
        + (mark if family == "llava_onevision" else f"<|vision_start|>{mark}<|vision_end|>")
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    )
    pruner = gp.Random(keep=0.5)
    answerer = Answerer(model, processor, How(pruner, parse_policy("preserved")))
    decoding = Decoding.of({"max_new_tokens": STEPS, "min_new_tokens": STEPS})
    asked = [answerer.asked(of_context("the red circle", [path]), decoding, 0) for path in videos]
    for path, request, found in zip(videos, asked, answerer.answers(asked, 8, lambda rows: None), strict=True):
        inputs = processor(text=[request.prompt], return_tensors="pt", **video_arguments(processor, [[path]]))
        with prune(model, pruner), torch.inference_mode():
            output = model.generate(**inputs, **decoding.options)
        expected = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert found.text == expected.strip()
        assert 0 < found.kept < found.visual


def test_frames_are_spread_evenly_and_a_file_that_is_none_is_named(videos, tmp_path):
    _, processor = gp.load(save_tiny("llava_onevision", tmp_path))
    found = video_arguments(processor, [[videos[1]]])
    assert len(found["videos"][0][0]) == 6
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    with pytest.raises(gp.GroundPruneError, match=r"no.mp4 cannot be read"):
        video_arguments(processor, [[str(tmp_path / "no.mp4")]])
