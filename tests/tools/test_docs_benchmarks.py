"""What the docs say of a benchmark is what its file holds."""

from tools.docs.benchmarks import coverage_table, prefill_table, selection_table, throughput_table

GAIN = {"difference": 0.2, "interval": [0.1, 0.3]}
TIE = {"difference": 0.01, "interval": [-0.05, 0.07]}
LOSS = {"difference": -0.2, "interval": [-0.3, -0.1]}


def other(name, text, plain, with_text):
    return {
        "pruner": name, "text": text, "mean": 0.5, "keeps": [0.75, 0.25],
        "against text=False": plain, "against text=True": with_text,
    }  # fmt: skip


def test_where_coverage_loses_the_table_says_so():
    ours = [{"text": text, "mean": 0.6 + 0.1 * text, "keeps": [0.9, 0.3]} for text in (False, True)]
    others = [other("a", False, GAIN, GAIN), other("b", False, TIE, LOSS), other("c", True, LOSS, TIE)]
    table = coverage_table({
        "keeps": ["0.5", "0.1"], "metric": "REC", "positions": "preserved", "samples": 9, "seed": 0,
        "tuning": {"split": "validation", "spread": 0.3},
        "report": {"split": "held-out", "coverage": ours, "others": others},
    })  # fmt: skip
    assert "| **coverage**, text | yes | 70.0 | 90.0 | 30.0 |" in table
    assert "| b | - | 50.0 | 75.0 | 25.0 | +1.0 [-5.0, +7.0] | -20.0 [-30.0, -10.0] |" in table
    # Without the text it is compared with those that do not read it either.
    assert "From the image alone, coverage beats 1 of 2, is not told apart from b." in table
    assert "With the text, coverage beats 1 of 3, is not told apart from c, loses to b." in table


def test_a_slow_pruner_is_named():
    def entry(name, share):
        of = {"576": {"keep": "0.25", "share": share}, "10000": {"keep": "0.25", "share": 0.2}}
        return {"pruner": name, "of": of}

    table = selection_table({"pruners": [entry("fast", 0.001), entry("slow", 0.06)]})
    assert "| `fast` | 0.1% (keep 0.25) | 20% (keep 0.25) |" in table
    assert "Not below 5% at 576 tokens: slow." in table
    assert "the most is 0.1% (fast)" in selection_table({"pruners": [entry("fast", 0.001)]})


def test_the_prefill_stands_beside_fastvs():
    table = prefill_table({
        "tokens": 2880, "left": [[0, 2880], [2, 720]], "layers": 8, "keep": 0.4375,
        "seconds": {"fastv": [1.0, 2.0, 3.0]}, "median": {"unpruned": 3.0, "fastv": 2.0},
    })  # fmt: skip
    assert "| unpruned | 3.00 | 1.50 |" in table
    assert "2,880 visual tokens, 720 of them from layer 2 of 8 on (keep 0.4375 on average)" in table


def test_a_request_in_vllm_stands_beside_stock():
    seconds = [{"stock": 2.0, "keep 0.5": 1.0}] * 6
    ratios = {"keep 0.5": {"over": "stock", "ratio": 0.5, "interval": [0.48, 0.53]}}
    unsure = {"keep 0.5": {"over": "stock", "ratio": 0.9, "interval": [0.0, 2.0]}}
    table = throughput_table({
        "vllm": "0.32.0", "pruner": "cls-visual", "requests": 6, "new_tokens": 4,
        "slots": {"stock": 1583, "keep 0.5": 295},
        "seconds": {"processor": seconds, "wall": seconds},
        "median": {"processor": {"stock": 2.0, "keep 0.5": 1.0}, "wall": {"stock": 3.0, "keep 0.5": 2.7}},
        "ratios": {"processor": ratios, "wall": unsure}, "about": {"machine": {"dtype": "float32"}},
    })  # fmt: skip
    assert "| stock | 1,583 | 2.000 |  | 3.000 |  |" in table
    assert "| keep 0.5 | 295 | 1.000 | 0.500 [0.480, 0.530] | 2.700 | 0.900 |" in table
    assert "medians over 6 rounds" in table
