"""Small data sets in the files and formats that the real ones are published in."""

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {1: (64, 48), 2: (48, 64), 3: (30, 90), 4: (80, 50), 5: (64, 48)}  # width, height as a person sees them
KIND_OF = {1: "plain", 2: "grey", 3: "CMYK", 4: "rotated", 5: "truncated"}
BOXES = {11: [10.0, 12.0, 20.0, 16.0], 12: [5.5, 6.25, 30.0, 40.0], 13: [2.0, 40.0, 20.0, 30.0], 14: [40, 5, 30, 40]}
BOXES[15] = [1.0, 2.0, 30.0, 20.0]
# ref: split, annotation, image, its expressions
REFS = [
    ("val", 11, 1, ["the red cup", "cup on the left"]),
    ("val", 12, 2, ["tall one"]),
    ("val", 13, 3, ["bottom", "the lowest", "under the rest"]),
    ("testA", 14, 4, ["man in café"]),
    ("val", 15, 5, ["broken"]),
    ("train", 11, 1, ["not for evaluation"]),
]


def name_of(image):
    return f"COCO_train2014_{image:012}.jpg"


def write_images(folder):
    folder.mkdir(parents=True)
    for image, (width, height) in SIZES.items():
        pixels = np.random.default_rng(image).integers(0, 255, (height, width, 3), dtype=np.uint8)
        picture, kind, path = Image.fromarray(pixels), KIND_OF[image], folder / name_of(image)
        if kind == "rotated":
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned clockwise
            picture.rotate(90, expand=True).save(path, exif=exif)
        else:
            picture.convert({"grey": "L", "CMYK": "CMYK"}.get(kind, "RGB")).save(path)
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_refcoco(root, name="refcoco", split_by="unc", protocol=2):
    """protocol 2: as Python 2 wrote the official files."""
    sentence, refs = 100, []
    for number, (split, annotation, image, expressions) in enumerate(REFS):
        sentences = []
        for text in expressions:
            sentences.append({"tokens": text.split(), "raw": text, "sent_id": sentence, "sent": text})
            sentence += 1
        refs.append(
            {
                "ref_id": number, "ann_id": annotation, "image_id": image, "category_id": 1, "split": split,
                "file_name": f"COCO_train2014_{image:012}_{annotation}.jpg", "sentences": sentences,
                "sent_ids": [s["sent_id"] for s in sentences],
            }
        )  # fmt: skip
    annotations = [
        {
            "id": id, "bbox": box, "category_id": 1, "iscrowd": 0,
            "segmentation": [[box[0], box[1], box[0] + 3, box[1], box[0], box[1] + 3]],
        }
        for id, box in BOXES.items()
    ]  # fmt: skip
    annotations[1]["segmentation"] = {"size": [64, 48], "counts": [10, 20, 3042]}
    images = [{"id": i, "file_name": name_of(i), "width": w, "height": h} for i, (w, h) in SIZES.items()]
    categories = [{"id": 1, "name": "cup", "supercategory": "kitchen"}]
    folder = Path(root) / name
    folder.mkdir(parents=True)
    with (folder / f"refs({split_by}).p").open("wb") as file:
        pickle.dump(refs, file, protocol=protocol)
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


def question(semantic, steps, answer="yes", image="n1"):
    return {
        "semantic": [{"operation": o, "dependencies": [], "argument": a} for o, a in steps], "question": "is it?",
        "imageId": image, "isBalanced": True, "answer": answer, "fullAnswer": f"{answer}.",
        "types": {"detailed": "d", "semantic": semantic, "structural": "verify"},
    }  # fmt: skip


def write_gqa(root):
    folder = Path(root) / "gqa"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (50, 40), "teal").save(folder / "images" / "n1.jpg")
    questions = {
        "201": question("rel", [("select", "man (1)"), ("relate", "_,to the left of,s (2)")], "left"),
        "202": question("rel", [("select", "man (1)"), ("relate", "_,wearing,o (2)")], "hat"),
        "203": question("rel", [("select", "cup (1)"), ("choose rel", "cup,behind|in front of,s (3)")], "behind"),
        "204": question("attr", [("select", "cup (1)"), ("relate", "_,to the right of,o (2)")], "red"),
        "205": question("rel", [("filter hposition", "left"), ("verify rel", "cup,holding,o (2)")]),
        "206": question("rel", [("select", "a"), ("verify rel", "cup,leftover of,o (2)")]),
    }
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(questions))
