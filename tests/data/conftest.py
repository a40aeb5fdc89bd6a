import pytest

from support.official import write_gqa, write_images, write_refcoco


@pytest.fixture
def root(tmp_path):
    """A data root with all four benchmarks, each of a handful of samples."""
    folder = tmp_path / "data"
    write_images(folder / "coco" / "train2014")
    write_refcoco(folder)
    write_refcoco(folder, "refcoco+")
    write_refcoco(folder, "refcocog", "umd")
    write_gqa(folder)
    return folder
