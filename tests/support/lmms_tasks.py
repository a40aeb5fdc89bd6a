"""Local tasks of lmms-eval over the pocket's scenes: parquet, YAML and functions, as a user would write them."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

import groundprune as gp
from groundprune.data.scenes import scene_samples

SAMPLES = 12
SEED = 7
REC = "pocket_rec"  # the scenes of `evaluate`, asked in the pocket's words
PAPER = "pocket_paper"  # the same in lmms-eval's own words
REPEATED = "pocket_repeated"  # several expressions of one image, as RefCOCO has them
TWO = "pocket_two"  # two images a document, no image in the last
UNTIL = "pocket_until"
ROUNDS = "pocket_rounds"
SAMPLED = "pocket_sampled"
LIKELY = "pocket_likely"  # asks for likelihoods
TWO_TEXTS = ["what is in <image> and not in <image>", "which one has a star", "how many stars"]
OPTIONS = {"max_new_tokens": 24, "do_sample": False}
NAMES = (REC, PAPER, REPEATED, TWO, UNTIL, ROUNDS, SAMPLED)

UTILS = '''
import os
import signal

from lmms_eval.tasks.refcoco import utils_rec as rec

explode = rec.refcoco_bbox_rec_preprocess_dataset
one_image = rec.refcoco_bbox_rec_doc_to_visual
paper = rec.refcoco_bbox_rec_doc_to_text
iou, acc05 = rec.refcoco_bbox_rec_iou, rec.refcoco_bbox_rec_acc05


def locate(doc):
    if os.environ.get("DIES") == os.environ.get("RANK", "0") and doc["answer"] == os.environ["DIES_AT"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return "locate " + doc["answer"]


def scores(doc, result):
    found = rec.refcoco_bbox_rec_process_result(doc, result)
    return {name: found[name] for name in ("refcoco_IoU", "refcoco_ACC@0.5")}


def images(doc):
    return [image.convert("RGB") for image in doc["images"]]


def text(doc):
    return doc["text"]


def length(doc, result):
    return {"length": len(str(result))}


def question(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
    """Locate, then locate what the first answer names, then over."""
    if round_idx is None:
        return doc["text"]
    notes = (previous_round_info or 0) + 1
    if round_idx == 2:
        return None, None, True, [*previous_output, f"asked {notes} times"], None
    return images(doc), f"is there a star {previous_output[-1][:1]}", False, previous_output, notes
'''

REC_TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    val: {folder}/{data}.parquet
test_split: val
output_type: generate_until
process_docs: !function utils.explode
doc_to_visual: !function utils.one_image
doc_to_text: !function utils.{words}
doc_to_target: "bbox"
generation_kwargs: {options}
process_results: !function utils.scores
metric_list:
  - metric: refcoco_IoU
    aggregation: !function utils.iou
    higher_is_better: true
  - metric: refcoco_ACC@0.5
    aggregation: !function utils.acc05
    higher_is_better: true
metadata:
  version: 0.0
"""

FREE_TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    val: {folder}/{data}.parquet
test_split: val
output_type: {output}
doc_to_visual: !function utils.images
doc_to_text: !function utils.{words}
doc_to_target: "text"
generation_kwargs: {options}
process_results: !function utils.length
metric_list:
  - metric: length
    aggregation: mean
    higher_is_better: true
metadata:
  version: 0.0
"""

LIKELY_TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    val: {folder}/two.parquet
test_split: val
output_type: multiple_choice
doc_to_visual: !function utils.images
doc_to_text: !function utils.text
doc_to_target: 0
doc_to_choice: ["yes", "no"]
metric_list:
  - metric: acc
metadata:
  version: 0.0
"""


def rec_samples():
    """The expressions among the scenes that `evaluate` asks about, in its order."""
    return [sample for sample in scene_samples(SAMPLES, SEED) if sample.kind == "rec"]


def two_images():
    return [[gp.scene(1).image, gp.scene(2).image], [gp.scene(3).image, gp.scene(1).image], []]


def write_tasks(folder):
    """The folder, which goes to `--include_path`."""
    _rec(folder / "rec.parquet", [(s.image, [s.text], [s.box]) for s in rec_samples()])
    several = [gp.scene(seed) for seed in (3, 4)]
    expressions = [(scene.image, list(scene.expressions), list(scene.expressions.values())) for scene in several]
    _rec(folder / "repeated.parquet", expressions)
    _free(folder / "two.parquet", zip(two_images(), TWO_TEXTS, strict=True))
    _free(folder / "one.parquet", [([s.image], f"locate {s.text}") for s in rec_samples()[:3]])
    (folder / "utils.py").write_text(UTILS)
    longer, sampled = {**OPTIONS, "max_new_tokens": 64}, {"max_new_tokens": 24, "temperature": 1.0}
    made = [
        REC_TASK.format(name=REC, folder=folder, data="rec", words="locate", options=json.dumps(OPTIONS)),
        REC_TASK.format(name=PAPER, folder=folder, data="rec", words="paper", options=json.dumps(longer)),
        REC_TASK.format(name=REPEATED, folder=folder, data="repeated", words="locate", options=json.dumps(OPTIONS)),
    ]
    for name, data, output, words, options in [
        (TWO, "two", "generate_until", "text", OPTIONS),
        (UNTIL, "one", "generate_until", "text", {"until": [","], "num_beams": 2, "image_aspect_ratio": "original"}),
        (ROUNDS, "one", "generate_until_multi_round", "question", OPTIONS),
        (SAMPLED, "one", "generate_until", "text", sampled),
    ]:
        given = {"name": name, "data": data, "output": output, "words": words, "options": json.dumps(options)}
        made.append(FREE_TASK.format(folder=folder, **given))
    made.append(LIKELY_TASK.format(name=LIKELY, folder=folder))
    for text in made:
        (folder / f"{text.split()[1]}.yaml").write_text(text)
    return folder


def _png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _rec(path, rows):
    """rows: an image, its expressions, and the boxes; a row of the file has one box, as RefCOCO's."""
    found = [(image, text, box) for image, texts, boxes in rows for text, box in zip(texts, boxes, strict=True)]
    columns = {
        "question_id": [str(i) for i in range(len(found))],
        "image": pa.array([_png(image) for image, _, _ in found], _IMAGE),
        "answer": [[text] for _, text, _ in found],
        "bbox": [[b.x1 * 1.0, b.y1 * 1.0, b.width * 1.0, b.height * 1.0] for _, _, b in found],
    }
    _write(path, columns, {"image": {"_type": "Image"}})


def _free(path, rows):
    found = list(rows)
    columns = {
        "images": pa.array([[_png(image) for image in images] for images, _ in found], pa.list_(_IMAGE)),
        "text": [text for _, text in found],
    }
    _write(path, columns, {"images": {"feature": {"_type": "Image"}, "_type": "List"}})


def _write(path, columns, images):
    """As `datasets` stores images, so that it opens them."""
    table = pa.table(columns)
    kinds = {"question_id": "string", "text": "string"}
    features = {name: {"dtype": kinds[name], "_type": "Value"} for name in columns if name in kinds} | images
    if "answer" in columns:
        for name, kind in (("answer", "string"), ("bbox", "float64")):
            features[name] = {"feature": {"dtype": kind, "_type": "Value"}, "_type": "List"}
    features = {name: features[name] for name in columns}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), path)
