"""Questions about a scene: referring expressions (answer: a box) and visual questions (answer: a word).

Whatever would be a matter of taste is left out: a description must fit exactly one object, and two
objects are only compared along an axis where their centres lie at least `MARGIN` pixels apart.
"""

from dataclasses import dataclass

from .scenes import COLORS, HELD_OUT_PAIRS, SHAPES, SIZES, SceneObject

MARGIN = 9  # pixels between the centres of two objects that are compared

REC_SHARES = {"attribute": 0.45, "extreme": 0.25, "relation": 0.30}
VQA_SHARES = {"color": 0.17, "shape": 0.17, "size": 0.10, "count": 0.17, "existence": 0.17, "spatial": 0.22}

FORMS = (
    ("shape",),
    ("color",),
    ("color", "shape"),
    ("size", "shape"),
    ("size", "color"),
    ("size", "color", "shape"),
)
# The held-out template: a size word on what is looked for, in relations and in questions of existence.
# Both words and both constructions are trained, their combination never is.
RELATION_FORMS = (("shape",), ("color",), ("color", "shape"))
NOVEL_RELATION_FORMS = (("size", "shape"), ("size", "color"))
EXISTENCE_FORMS = (("shape",), ("color",), ("color", "shape"))
NOVEL_EXISTENCE_FORMS = (("size", "shape"), ("size", "color"))

RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}  # axis, direction
EXTREMES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "bottommost": (1, 1)}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PLURAL = {**{shape: shape + "s" for shape in SHAPES}, "cross": "crosses", "object": "objects"}


@dataclass(frozen=True)
class Question:
    """A question about one scene and its only right answer: a box or a word."""

    kind: str  # "rec" | "vqa"
    type: str  # a key of REC_SHARES or VQA_SHARES
    text: str
    about: tuple[int, ...]  # indices of the objects that the question asks for
    box: tuple[int, int, int, int] | None = None
    answer: str | None = None


def draw_question(
    rng,
    objects,
    kind: str,
    type: str | None = None,
    *,
    focus: int | None = None,
    novel_template: bool = False,
    shares: dict[str, float] | None = None,
) -> Question | None:
    """Draw a question of a kind (and type, else by the shares); None if the scene does not yield one.

    `focus` is the object that it must be about. Held-out pairs are named only when `focus` is given.
    `shares` of the types, where they differ from those of the evaluation.
    """
    shares = shares or (REC_SHARES if kind == "rec" else VQA_SHARES)
    for _ in range(6):
        chosen = type or _weighted(rng, shares)
        for _ in range(12):  # tries of one type first: else the types that are easy to draw would crowd out the rest
            target = int(rng.integers(len(objects))) if focus is None else focus
            question = _DRAW[chosen](rng, objects, target, novel_template, focus is not None)
            if question is not None and (focus is None or question.answer == "no" or focus in question.about):
                return question
    return None


def describe(obj: SceneObject, form: tuple[str, ...], plural: bool = False) -> str:
    """`describe(o, ("size", "color"))` is "small red object"."""
    noun = obj.shape if "shape" in form else "object"
    adjectives = [getattr(obj, name) for name in ("size", "color") if name in form]
    return " ".join([*adjectives, PLURAL[noun] if plural else noun])


def matching(objects, like: SceneObject, form: tuple[str, ...]) -> list[int]:
    """Indices of the objects that agree with `like` in every attribute of `form`."""
    return [i for i, other in enumerate(objects) if all(getattr(other, name) == getattr(like, name) for name in form)]


def unique_form(rng, objects, target: int) -> tuple[str, ...] | None:
    """A form whose description fits only the target: half the time a minimal one, else any."""
    unique = [form for form in FORMS if matching(objects, objects[target], form) == [target]]
    if unique and rng.random() < 0.5:
        unique = [form for form in unique if not any(set(other) < set(form) for other in unique)]
    return unique[rng.integers(len(unique))] if unique else None


def is_ordered(first: SceneObject, second: SceneObject, relation: str) -> bool | None:
    """Whether the relation holds between the two; None where they are too close to tell."""
    axis, direction = RELATIONS[relation]
    distance = direction * (first.center[axis] - second.center[axis])
    return None if abs(distance) < MARGIN else distance > 0


def _weighted(rng, shares: dict[str, float]) -> str:
    left = rng.random() * sum(shares.values())
    for name, share in shares.items():
        left -= share
        if left < 0:
            return name
    return next(iter(shares))  # reached only by rounding


def _pick(rng, options):
    return options[rng.integers(len(options))]


def _expression(type: str, text: str, objects, found: int) -> Question:
    return Question("rec", type, text, (found,), box=objects[found].box)


def _question(type: str, text: str, answer: str, about: list[int]) -> Question:
    return Question("vqa", type, text, tuple(about), answer=answer)


def _attribute(rng, objects, target, novel_template, novel_pair):
    form = unique_form(rng, objects, target)
    if form is None:
        return None
    return _expression("attribute", "the " + describe(objects[target], form), objects, target)


def _extreme(rng, objects, target, novel_template, novel_pair):
    word = _pick(rng, tuple(EXTREMES))
    axis, direction = EXTREMES[word]
    form = _pick(rng, ((), ("shape",), ("color",)))
    group = sorted(matching(objects, objects[target], form), key=lambda i: -direction * objects[i].center[axis])
    if len(group) < 2 or abs(objects[group[0]].center[axis] - objects[group[1]].center[axis]) < MARGIN:
        return None
    return _expression("extreme", f"the {word} {describe(objects[group[0]], form)}", objects, group[0])


def _relation(rng, objects, target, novel_template, novel_pair):
    word, anchor = _pick(rng, tuple(RELATIONS)), int(rng.integers(len(objects)))
    if anchor == target:
        return None
    form = _pick(rng, NOVEL_RELATION_FORMS if novel_template else RELATION_FORMS)
    candidates = [i for i in matching(objects, objects[target], form) if i != anchor]
    holds = [is_ordered(objects[i], objects[anchor], word) for i in candidates]
    if None in holds or holds.count(True) != 1 or (len(candidates) < 2 and rng.random() < 0.6):
        return None
    anchor_form = unique_form(rng, objects, anchor)
    if anchor_form is None:
        return None
    found = candidates[holds.index(True)]
    text = f"the {describe(objects[found], form)} {word} the {describe(objects[anchor], anchor_form)}"
    return _expression("relation", text, objects, found)


def _which(attribute: str, forms, wording: str):
    """Questions for one attribute of an object that the other attributes make unique."""

    def draw(rng, objects, target, novel_template, novel_pair):
        form = _pick(rng, forms)
        if matching(objects, objects[target], form) != [target]:
            return None
        text = wording.format(describe(objects[target], form))
        return _question(attribute, text, getattr(objects[target], attribute), [target])

    return draw


def _count(rng, objects, target, novel_template, novel_pair):
    form = _pick(rng, (("shape",), ("color",), ("size",)))
    like = objects[target]
    if rng.random() < 0.25:  # so that zero is asked for too
        like = SceneObject(_pick(rng, SHAPES), _pick(rng, COLORS), _pick(rng, SIZES), like.box)
    found = matching(objects, like, form)
    return _question("count", f"how many {describe(like, form, plural=True)}", str(len(found)), found)


def _existence(rng, objects, target, novel_template, novel_pair):
    form = _pick(rng, NOVEL_EXISTENCE_FORMS if novel_template else EXISTENCE_FORMS)
    wanted = bool(rng.random() < 0.5)
    for _ in range(8):
        like = objects[target] if wanted else _absent(rng, objects, objects[target])
        found = matching(objects, like, form)
        names_novel_pair = {"color", "shape"} <= set(form) and like.pair in HELD_OUT_PAIRS
        if bool(found) == wanted and (novel_pair or not names_novel_pair):
            text = f"is there a {describe(like, form)}"
            return _question("existence", text, "yes" if wanted else "no", found)
    return None


def _absent(rng, objects, obj: SceneObject) -> SceneObject:
    """A candidate for the answer no: half the time hard, its attributes all in the scene, on several objects."""
    if rng.random() < 0.5:
        shapes, colors, sizes = ([getattr(o, name) for o in objects] for name in ("shape", "color", "size"))
    else:
        shapes, colors, sizes = SHAPES, COLORS, SIZES
    return SceneObject(_pick(rng, shapes), _pick(rng, colors), _pick(rng, sizes), obj.box)


def _spatial(rng, objects, target, novel_template, novel_pair):
    anchor, word = int(rng.integers(len(objects))), _pick(rng, tuple(RELATIONS))
    holds = None if anchor == target else is_ordered(objects[target], objects[anchor], word)
    if holds is None:
        return None
    form, anchor_form = unique_form(rng, objects, target), unique_form(rng, objects, anchor)
    if form is None or anchor_form is None:
        return None
    wanted = bool(rng.random() < 0.5)  # as many yes as no
    word = word if holds == wanted else OPPOSITE[word]
    text = f"is the {describe(objects[target], form)} {word} the {describe(objects[anchor], anchor_form)}"
    return _question("spatial", text, "yes" if wanted else "no", [target, anchor])


_DRAW = {
    "attribute": _attribute,
    "extreme": _extreme,
    "relation": _relation,
    "color": _which("color", (("shape",), ("size", "shape")), "what color is the {}"),
    "shape": _which("shape", (("color",), ("size", "color")), "what shape is the {}"),
    "size": _which("size", (("color",), ("shape",), ("color", "shape")), "is the {} small or large"),
    "count": _count,
    "existence": _existence,
    "spatial": _spatial,
}
