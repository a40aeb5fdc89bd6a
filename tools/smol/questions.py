"""Questions about a scene of named pictures, each with only one right answer: a box, or a word.

Things are only compared along an axis where their centres lie at least `MARGIN` pixels apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from groundprune.pocket import questions as pocket
from groundprune.pocket.questions import EXTREMES, OPPOSITE, RELATIONS

from .names import plural, trained_names, with_article
from .scenes import IMAGE_SIZE, SceneObject

MARGIN = 14
LARGER = 1.5  # how many times as many pixels of box the largest thing has

REC_SHARES = {"name": 0.45, "extreme": 0.25, "relation": 0.30}
VQA_SHARES = {"existence": 0.2, "count": 0.2, "spatial": 0.2, "side": 0.15, "which": 0.25}
Shares = dict[str, dict[str, float]]  # of the types, by kind of question
SHARES: Shares = {"rec": REC_SHARES, "vqa": VQA_SHARES}
SIDES = {"on the left or on the right": ("left", "right"), "at the top or at the bottom": ("top", "bottom")}


@dataclass(frozen=True)
class Question(pocket.Question):
    """As the pocket is asked, with boxes in pixels, and of the types of REC_SHARES and VQA_SHARES here."""

    given: tuple[int, int, int, int] | None = None  # the box that `text` leaves a place for, "{}"


def draw_question(
    rng, objects: Sequence[SceneObject], kind: str, type: str | None = None, focus: int | None = None,
    shares: Shares = SHARES,
) -> Question | None:  # fmt: skip
    """Draw a question of a kind (and type, else by the shares); None if the scene does not yield one.

    focus: the object that it must be about, also where its name is held out.
    """
    types = shares[kind]
    for _ in range(6):
        chosen = type or str(rng.choice(list(types), p=list(types.values())))
        for _ in range(10):
            target = int(rng.integers(len(objects))) if focus is None else focus
            question = _DRAW[chosen](rng, objects, target)
            if question is not None and (focus is None or focus in question.about):
                return question
    return None


def _named(objects, name: str) -> list[int]:
    return [i for i, obj in enumerate(objects) if obj.name == name]


def _is_unique(objects, index: int) -> bool:
    return len(_named(objects, objects[index].name)) == 1


def _is_ordered(first: SceneObject, second: SceneObject, relation: str) -> bool | None:
    axis, direction = RELATIONS[relation]
    distance = direction * (first.center[axis] - second.center[axis])
    return None if abs(distance) < MARGIN else distance > 0


def _pick(rng, options):
    return options[int(rng.integers(len(options)))]


def _found(type: str, text: str, objects, index: int) -> Question:
    return Question("rec", type, text, (index,), box=objects[index].box)


def _name(rng, objects, target):
    return _found("name", f"the {objects[target].name}", objects, target) if _is_unique(objects, target) else None


def _first(rng, objects, group: list[int]) -> tuple[str, int] | None:
    """Which of the group comes first along a word's order, and the word."""
    if len(group) < 2:
        return None
    word = _pick(rng, (*EXTREMES, "largest", "smallest"))
    if word in EXTREMES:
        axis, direction = EXTREMES[word]
        order = sorted(group, key=lambda i: -direction * objects[i].center[axis])
        clear = abs(objects[order[0]].center[axis] - objects[order[1]].center[axis]) >= MARGIN
    else:
        order = sorted(group, key=lambda i: objects[i].size, reverse=word == "largest")
        sizes = sorted(objects[i].size for i in order[:2])
        clear = sizes[1] >= LARGER * sizes[0]
    return (word, order[0]) if clear else None


def _extreme(rng, objects, target):
    alike = _named(objects, objects[target].name)
    every = len(alike) == 1 or rng.random() < 0.3
    first = _first(rng, objects, list(range(len(objects))) if every else alike)
    if first is None:
        return None
    return _found("extreme", f"the {first[0]} {'thing' if every else objects[target].name}", objects, first[1])


def _relation(rng, objects, target):
    word, anchor = _pick(rng, tuple(RELATIONS)), int(rng.integers(len(objects)))
    candidates = [i for i in _named(objects, objects[target].name) if i != anchor]
    if anchor == target or not _is_unique(objects, anchor):
        return None
    holds = [_is_ordered(objects[i], objects[anchor], word) for i in candidates]
    if None in holds or holds.count(True) != 1 or (len(candidates) < 2 and rng.random() < 0.6):
        return None
    found = candidates[holds.index(True)]
    return _found("relation", f"the {objects[found].name} {word} the {objects[anchor].name}", objects, found)


def _other_name(rng) -> str:
    """One that the scene may show or not, and that training knows."""
    return _pick(rng, trained_names())


def _existence(rng, objects, target):
    wanted = bool(rng.random() < 0.5)
    name = objects[target].name if wanted else _other_name(rng)
    found = _named(objects, name)
    if bool(found) != wanted:
        return None
    answer = "yes" if wanted else "no"
    return Question("vqa", "existence", f"is there {with_article(name)}?", tuple(found), answer=answer)


def _count(rng, objects, target):
    name = _other_name(rng) if rng.random() < 0.2 else objects[target].name
    found = _named(objects, name)
    if len(found) == 1 and rng.random() < 0.5:  # else most answers would be one
        return None
    return Question("vqa", "count", f"how many {plural(name)} are there?", tuple(found), answer=str(len(found)))


def _spatial(rng, objects, target):
    anchor, word = int(rng.integers(len(objects))), _pick(rng, tuple(RELATIONS))
    if anchor == target or not (_is_unique(objects, target) and _is_unique(objects, anchor)):
        return None
    holds = _is_ordered(objects[target], objects[anchor], word)
    if holds is None:
        return None
    wanted = bool(rng.random() < 0.5)
    word = word if holds == wanted else OPPOSITE[word]
    text = f"is the {objects[target].name} {word} the {objects[anchor].name}?"
    return Question("vqa", "spatial", text, (target, anchor), answer="yes" if wanted else "no")


def _side(rng, objects, target):
    wording = _pick(rng, tuple(SIDES))
    axis = 0 if "left" in wording else 1
    distance = objects[target].center[axis] - IMAGE_SIZE / 2
    if not _is_unique(objects, target) or abs(distance) < MARGIN:
        return None
    answer = SIDES[wording][distance > 0]
    return Question("vqa", "side", f"is the {objects[target].name} {wording}?", (target,), answer=answer)


def _which(rng, objects, target):
    if rng.random() < 0.6:
        obj = objects[target]
        return Question("vqa", "which", "what is at {}?", (target,), answer=obj.name, given=obj.box)
    first = _first(rng, objects, list(range(len(objects))))
    if first is None:
        return None
    word, index = first
    return Question("vqa", "which", f"what is the {word} thing?", (index,), answer=objects[index].name)


_DRAW = {
    "name": _name, "extreme": _extreme, "relation": _relation, "existence": _existence, "count": _count,
    "spatial": _spatial, "side": _side, "which": _which,
}  # fmt: skip
