"""The docs' table of our own pruners says what each pruner says of its authors' code."""

from groundprune.pruners import pruner_class, pruner_names
from tools.docs.audits import audits_table


def test_the_table_agrees_with_the_catalogue():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in audits_table().splitlines()[2:]]
    assert [row[0] for row in rows] == [f"`{name}`" for name in pruner_names()]
    for name, (_, _, visual, text, order, _, code) in zip(pruner_names(), rows, strict=True):
        official = pruner_class(name).official_positions
        if official == "preserved":
            assert (visual.partition(" from")[0], text, order, code) == ("preserved", "kept", "as in the prompt", "0")
        else:
            assert official in ("reassigned", "reassigned-in-order")
            assert visual.partition(" from")[0] == "renumbered"
            assert text.startswith("moved up by ")
            assert code == "1"
            assert official == "reassigned-in-order" or order == "as in the prompt"
