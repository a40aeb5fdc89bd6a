"""Records which position every decoder layer rotates its keys by. Stands alone: torch and nothing else.

Copy this file to wherever the code in question runs, whatever its version of transformers:

    recorder = Recorder(model)
    with recorder.recording("reference"):
        model(**inputs)  # stock
    patch(model)
    with recorder.recording("audited"):
        model.generate(**inputs)
    recorder.save("run.audit")  # read by `groundprune audit run.audit`

A position is read from the rotation between a key as it leaves the projection (and the norm of keys, where there is
one) and the key that reaches the attention kernel: z = sum over heads of key * conj(projected), whose angle is the
position times the frequency. So it depends neither on what code calls its ids nor on where it rotates. The kernel is
found by what it is, scaled_dot_product_attention or a product of queries with transposed keys, in whatever forward.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

FORMAT, VERSION = "groundprune recording", 1
RUNS = ("reference", "audited")
_FUSED = ("qkv_proj", "wqkv")  # queries, keys and values behind each other (Phi-3), or by group (InternLM2)
LINEAR = "linear"  # what computes a layer with a state in place of keys, which nothing rotates,
_KEYLESS = "linear_attn"  # and the name of its module
_NORMS = ("input_layernorm", "attention_norm", "input_norm")
_PRODUCTS = {"matmul", "__matmul__", "bmm", "einsum"}
_CHUNK = 256  # slots whose candidate positions are weighed at a time


class Recorder:
    """Watches the decoder layers of one model.

    Args:
        model: any with a module that holds `layers` and `embed_tokens`, as decoders of transformers do.
        functions: transformers' ALL_ATTENTION_FUNCTIONS, where there is one: for kernels that are no torch function,
            flash attention's. It is as before when a recording ends.

    Raises:
        ValueError: no decoder, key projection or rotary module is found.
    """

    def __init__(self, model: Any, functions: Any = None) -> None:
        self.model, self.functions = model, functions
        self.decoder = _decoder(model)
        self.layers = [_Layer(self.decoder, layer, index) for index, layer in enumerate(self.decoder.layers)]
        if not any(layer.rotates for layer in self.layers):
            raise ValueError("no decoder layer has keys that could be rotated")
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self.inputs: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    @contextlib.contextmanager
    def recording(self, name: str) -> Any:
        """While active, calls of the model are recorded as the run `name`, "reference" or "audited"."""
        if name not in RUNS:
            raise ValueError(f"a run is one of {', '.join(RUNS)} (got {name!r})")
        passes: list[dict[str, Any]] = []
        watch = _Watch(self.layers, passes)
        embeddings = getattr(self.decoder, "embed_tokens", None) or self.decoder.tok_embeddings
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        with contextlib.ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                for handle in layer.watched(watch, index):
                    stack.callback(handle.remove)
            stack.callback(embeddings.register_forward_hook(watch.embed).remove)
            if head is not None:
                stack.callback(head.register_forward_hook(watch.say).remove)
            if name == "reference":
                hook = self.model.register_forward_pre_hook(self._read, with_kwargs=True)
                stack.callback(hook.remove)
            for key in [k for k in self.functions or () if "flash" in k or "flex" in k]:
                stack.enter_context(_replaced(self.functions, key, watch.called(key, self.functions[key])))
            with watch, torch.no_grad() if not torch.is_grad_enabled() else contextlib.nullcontext():
                yield
        watch.finish()
        self.runs[name] = passes

    def _read(self, module: Any, args: Any, kwargs: Any) -> None:
        names = list(inspect.signature(module.forward).parameters)
        given = {**dict(zip(names, args)), **kwargs}  # noqa: B905 (Python 3.9 has no strict)
        for name in ("input_ids", "attention_mask"):
            if torch.is_tensor(given.get(name)):
                self.inputs.setdefault(name, given[name].detach().cpu())

    def recorded(self) -> dict[str, Any]:
        """Tensors and plain types only."""
        parameter = next(self.model.parameters())
        about = {"model": type(self.model).__name__, "dtype": str(parameter.dtype), "torch": str(torch.__version__)}
        return {
            "format": FORMAT, "version": VERSION, "about": about, "layers": len(self.layers),
            "inputs": self.inputs, "runs": self.runs, "facts": self.facts,
        }  # fmt: skip

    def save(self, path: Any, **facts: Any) -> None:
        """Write both runs.

        Args:
            path: of the file.
            **facts: what a reader should know: image_token (the placeholder's id), grid=(rows, columns).
        """
        self.facts.update(facts)
        torch.save(self.recorded(), path)


class _Layer:
    """Where one decoder layer makes its keys, and by what it rotates them."""

    def __init__(self, decoder: Any, layer: Any, index: int) -> None:
        self.layer = layer
        self.norm = next((getattr(layer, name) for name in _NORMS if hasattr(layer, name)), layer)
        self.rotates = not hasattr(layer, _KEYLESS)
        if not self.rotates:
            return
        owners = [m for m in layer.modules() if any(hasattr(m, name) for name in ("k_proj", *_FUSED))]
        if not owners:
            raise ValueError(f"decoder layer {index} has no module with k_proj, {' or '.join(_FUSED)}")
        self.attention: Any = owners[0]
        self.name = next(name for name in ("k_proj", *_FUSED) if hasattr(self.attention, name))
        self.projection = getattr(self.attention, self.name)
        self.size = int(self.attention.head_dim)
        self.frequency, self.axis = _rotation(decoder, layer, self.attention, index, self.size)

    def watched(self, watch: Any, index: int) -> list[Any]:
        """Hooks. What enters is read at the first norm: after all that others do to it before the layer."""
        handles = [
            self.layer.register_forward_pre_hook(lambda m, args: watch.open(index)),
            self.norm.register_forward_pre_hook(lambda m, args: watch.enter(index, args[0])),
            self.layer.register_forward_hook(lambda m, args, out: watch.leave(out)),
        ]
        if not self.rotates:
            return handles
        handles += [
            self.attention.register_forward_pre_hook(watch.hide, with_kwargs=True),
            self.projection.register_forward_hook(lambda m, args, out: watch.project(self.keys(out))),
        ]
        key_norm = getattr(self.attention, "k_norm", None)
        if key_norm is not None:
            handles.append(key_norm.register_forward_hook(lambda m, args, out: watch.project(out)))
        return handles

    def keys(self, out: Any) -> Any:
        """[B, S, F] of the projection -> [B, S, H, D]."""
        if self.name == "k_proj":
            return out.unflatten(-1, (-1, self.size))
        heads = out.shape[-1] // self.size
        queries = _number(self.attention, ("num_heads", "num_attention_heads"))
        held = (heads - queries) // 2
        if self.name == "wqkv":
            return out.unflatten(-1, (held, queries // held + 2, self.size))[..., -2, :]
        return out.unflatten(-1, (heads, self.size))[..., queries : queries + held, :]


@contextlib.contextmanager
def _replaced(functions: Any, key: str, function: Any) -> Any:
    """While active, `function` has that name; transformers lays what was set over names of its own."""
    before = getattr(functions, "_local_mapping", functions).get(key)
    functions[key] = function
    try:
        yield
    finally:
        if before is None:
            del functions[key]
        else:
            functions[key] = before


class _Watch(TorchFunctionMode):
    """What happens in one run. The key that a kernel is given belongs to the layer that projected keys last."""

    def __init__(self, layers: list[_Layer], passes: list[dict[str, Any]]) -> None:
        super().__init__()
        self.layers, self.passes = layers, passes
        self.opened: int | None = None
        self.index: int | None = None
        self.projected: Any = None
        self.key: Any = None
        self.mask: Any = None
        self.whole = self.swapped = self.begun = False
        self.words: set[int] = set()
        self.interleaved: bool | None = None
        self.held: dict[int, tuple[Any, Any]] = {}  # by layer, all projected keys of the sequence, and the rotated
        self.longest = 0

    def open(self, index: int) -> None:
        self.finish()
        self.opened, self.begun = index, False

    def enter(self, index: int, states: Any) -> None:
        if self.opened != index:  # someone's own use of the norm, outside of the layer
            return
        self.finish()
        again, self.begun = self.begun, True
        if again:  # and inside of it, before: the last is the layer's
            self.passes[-1]["layers"].pop()
        elif index == 0 or not self.passes or index < len(self.passes[-1]["layers"]):
            self.passes.append({"embedded": None, "layers": [], "logits": None})
            self.longest = max(self.longest, states.shape[1])
        if index == 0:
            self.passes[-1]["embedded"] = states.detach().cpu()
            known = [[key in self.words for key in row] for row in _hashes(states).tolist()]
            self.passes[-1]["text"] = torch.tensor(known)
        found = self.passes[-1]["layers"]
        found += [None] * (index - len(found))  # layers that were skipped
        kernels = [] if self.layers[index].rotates else [LINEAR]
        found.append({"entering": _hashes(states), "leaving": None, "kernels": kernels, "position": None})
        self.index, self.projected, self.key, self.mask, self.whole = index, None, None, None, False

    def project(self, keys: Any) -> None:
        if self.index is None or keys.ndim != 4:
            return
        slots = self.passes[-1]["layers"][self.index]["entering"].shape[1]
        if self.projected is not None and keys.shape != self.projected.shape:  # the norm of keys: [B, H, S, D]
            keys = keys.transpose(1, 2)
            self.swapped = True
        elif self.projected is not None and self.swapped:
            keys = keys.transpose(1, 2)
        if keys.shape[1] == slots:
            self.projected = keys.detach()

    def hide(self, module: Any, args: Any, kwargs: Any) -> None:
        given = [each for each in (*args, *kwargs.values()) if torch.is_tensor(each)]
        masks = [kwargs["attention_mask"]] if "attention_mask" in kwargs else [m for m in given if m.ndim == 4]
        self.mask = masks[0] if masks else None

    def leave(self, out: Any) -> None:
        self.opened = None
        if self.index is not None:
            self.passes[-1]["layers"][self.index]["leaving"] = _hashes(out[0] if isinstance(out, tuple) else out)
        self.finish()

    def embed(self, module: Any, args: Any, out: Any) -> None:
        self.words.update(_hashes(out).flatten().tolist())

    def say(self, module: Any, args: Any, out: Any) -> None:
        if self.passes:
            self.passes[-1]["logits"] = out[:, -1].detach().float().cpu()

    def called(self, name: str, function: Any) -> Any:
        """A kernel of transformers' mapping: (module, query, key [B, H, T, D], ...)."""

        @functools.wraps(function)
        def call(module: Any, query: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
            self.kernel("flash" if "flash" in name else "flex", key, query.shape[-2])
            return function(module, query, key, *args, **kwargs)

        return call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.projected is not None:
            name = getattr(func, "__name__", "")
            if name == "scaled_dot_product_attention":
                query, key = (list(args) + [kwargs.get("query"), kwargs.get("key")][len(args) :])[:2]
                self.kernel("sdpa", key, query.shape[-2])
            elif name in _PRODUCTS:
                pair = [each for each in args if torch.is_tensor(each)]
                if len(pair) == 2 and pair[0].shape[-1] == self.layers[self.index or 0].size:
                    key = pair[1] if name == "einsum" else pair[1].transpose(-1, -2)
                    self.kernel("eager", key, pair[0].shape[-2])
        return func(*args, **kwargs)

    def kernel(self, kind: str, key: Any, rows: int) -> None:
        """key: [B, H, T, D] or [B * H, T, D]. What is given all rows of queries is the attention itself."""
        if self.index is None or self.projected is None:
            return
        batch, slots, _, size = self.projected.shape
        if key.ndim == 3 and key.shape[0] % batch == 0:
            key = key.unflatten(0, (batch, -1))
        if key.ndim != 4 or key.shape[0] != batch or key.shape[-1] != size or key.shape[2] < slots:
            return
        whole = rows == slots
        kernels = self.passes[-1]["layers"][self.index]["kernels"]
        kind = kind if whole else "rows"
        if kind not in kernels:
            kernels.append(kind)
        # Of products the first that is whole: weights times values may look like one, too.
        if not self.whole or (whole and kind != "eager"):
            self.key, self.whole = key.detach(), whole

    def finish(self) -> None:
        """Read the positions of the layer that ran last."""
        index, key, projected = self.index, self.key, self.projected
        self.index = self.key = self.projected = None
        if index is None or key is None or projected is None:
            return
        found, heads = self.passes[-1]["layers"][index], projected.shape[2]
        if key.shape[1] % heads:
            return
        key = key[:, :: key.shape[1] // heads].transpose(1, 2)  # [B, T, H, D]; what queries share stands repeated
        before = self.held.get(index)
        past = _start(key, projected, 0 if before is None else before[0].shape[1])
        slots = projected.shape[1]
        found["past"], found["hidden"] = past, _hidden(self.mask, past, slots)
        position, error = self._positions(self.layers[index], key[:, past : past + slots], projected)
        found["position"], found["error"], found["older"] = position, error, None
        if past == 0 or before is None or before[0].shape[1] != past:
            self.held[index] = (projected, key[:, : past + slots]) if past == 0 else (projected[:, :0], key[:, :0])
            return
        if not torch.equal(before[1], key[:, :past]) and _same_size(key[:, :past], before[0]):
            found["older"] = self._positions(self.layers[index], key[:, :past], before[0])
        self.held[index] = (torch.cat([before[0], projected], 1), key[:, : past + slots].clone())

    def _positions(self, layer: _Layer, key: Any, projected: Any) -> tuple[Any, Any]:
        if self.interleaved is None:
            tried = {way: read_positions(layer, key, projected, self.longest, way) for way in (False, True)}
            # The way of pairing dimensions that leaves less of a rotation unexplained.
            way = min(tried, key=lambda w: float(tried[w][1].median()))
            if key.shape[1] > 1:
                self.interleaved = way
            return tried[way]
        return read_positions(layer, key, projected, self.longest, self.interleaved)


def read_positions(layer: Any, key: Any, projected: Any, longest: int, interleaved: bool = False) -> tuple[Any, Any]:
    """The positions that turn projected keys into keys.

    Args:
        layer: with `frequency` Float[F], radians a position, and `axis` Long[F], which axis each belongs to.
        key: [B, S, H, D], as it reaches the kernel.
        projected: [B, S, H, D], as it left the projection.
        longest: of the prompts, in slots; positions up to a multiple of it are looked for.
        interleaved: dimensions are paired (0, 1), (2, 3), ... and not (0, D/2), (1, D/2 + 1), ...

    Returns:
        (Double[B, S, A], Double[B, S, A]): positions, and how far off each may be; infinite where no position
        explains the rotation.
    """
    rotated, plain = _pairs(key, layer, interleaved), _pairs(projected, layer, interleaved)
    turn = (rotated * plain.conj()).sum(2).flatten(0, 1).cpu()  # [B * S, F]
    candidates = torch.arange(-64, 4 * longest + 256, dtype=torch.float64)
    positions, errors = [], []
    for axis in range(int(layer.axis.max()) + 1):
        mine = layer.axis == axis
        frequency = layer.frequency[mine]
        wave = torch.polar(torch.ones(1, dtype=torch.float64), -frequency[:, None] * candidates)
        parts = [_fit(part[:, mine], frequency, wave, candidates) for part in turn.split(_CHUNK)]
        positions.append(torch.cat([p for p, _ in parts]))
        errors.append(torch.cat([e for _, e in parts]))
    shape = (*key.shape[:2], -1)
    return torch.stack(positions, -1).reshape(shape), torch.stack(errors, -1).reshape(shape)


def _fit(turn: Any, frequency: Any, wave: Any, candidates: Any) -> tuple[Any, Any]:
    """The best whole number, then the fraction that its phases ask for, weighed by the size of each."""
    weight = turn.abs()
    steep = (weight * frequency**2).sum(1)
    position = candidates[(turn @ wave).real.argmax(1)]
    for _ in range(2):
        phase = (turn * torch.polar(torch.ones_like(weight), -position[:, None] * frequency)).angle()
        position = position + (weight * frequency * phase).sum(1) / steep
    phase = (turn * torch.polar(torch.ones_like(weight), -position[:, None] * frequency)).angle()
    score = (weight * phase.cos()).sum(1) / weight.sum(1)
    error = ((weight * phase**2).sum(1) / steep / max(1, len(frequency) - 1)).sqrt()
    good = (score > 0.999) & error.isfinite()
    return position.where(good, torch.zeros(())), error.where(good, torch.full((), torch.inf, dtype=error.dtype))


def _pairs(keys: Any, layer: Any, interleaved: bool) -> Any:
    """Complex[B, S, H, F] of what is rotated."""
    keys = keys[..., : 2 * len(layer.frequency)].double()
    first, second = (keys[..., 0::2], keys[..., 1::2]) if interleaved else keys.chunk(2, -1)
    return torch.complex(first.contiguous(), second.contiguous())


def _start(key: Any, projected: Any, seen: int) -> int:
    """Where the newest keys stand among all: at the end, but in a static cache behind what it holds."""
    last = key.shape[1] - projected.shape[1]
    for start in (last, seen, 0):
        if 0 <= start <= last and _same_size(key[:, start : start + projected.shape[1]], projected):
            return start
    return last


def _same_size(key: Any, projected: Any) -> bool:
    """Whether one may be the other, rotated: up to a common factor, as some scaled rotations have."""
    ratio = key.float().norm(dim=-1) / projected.float().norm(dim=-1).clamp(min=1e-12)
    return bool(ratio.min() > 0) and float(ratio.max() / ratio.min()) < 1.05


def _hidden(mask: Any, past: int, slots: int) -> Any:
    """Bool[B, S]: the new slots that no other sees, padding or what a mask drops; the last is seen by none yet."""
    if not torch.is_tensor(mask) or mask.ndim not in (2, 4) or slots == 1 or mask.shape[-1] < past + slots:
        return None
    seen = mask[..., past : past + slots]
    seen = seen if seen.dtype == torch.bool else seen > (0 if mask.ndim == 2 else torch.finfo(seen.dtype).min / 2)
    if mask.ndim == 2:
        return ~seen.cpu()
    seen = seen.any(1)[:, -slots:] & ~torch.eye(slots, dtype=torch.bool, device=seen.device)
    hidden = ~seen.any(1)
    hidden[:, -1] = False
    return hidden.cpu()


def _hashes(states: Any) -> Any:
    """Long[B, S]: equal where rows of [B, S, D] are equal to the bit."""
    states = states.detach().contiguous()
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[states.element_size()]
    bits = (states + 0).view(whole).long().cpu()  # -0 and 0 are one number
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (bits.shape[-1],), generator=generator) * 2 + 1
    return (bits * weights).sum(-1)


def _decoder(model: Any) -> Any:
    for module in model.modules():
        named = hasattr(module, "embed_tokens") or hasattr(module, "tok_embeddings")
        if named and isinstance(getattr(module, "layers", None), nn.ModuleList):
            return module
    raise ValueError(f"{type(model).__name__} holds no decoder: a module with `layers` and `embed_tokens`")


def _rotation(decoder: Any, layer: Any, attention: Any, index: int, size: int) -> tuple[Any, Any]:
    """(Double[F] radians a position, Long[F] axis), as the model's own rotary module has them."""
    local = getattr(attention, "is_sliding", False) and getattr(decoder, "rotary_emb_local", None)
    rotary = local or getattr(attention, "rotary_emb", None) or getattr(decoder, "rotary_emb", None)
    if rotary is None:
        raise ValueError(f"decoder layer {index} has no rotary module (rotary_emb)")
    names = inspect.signature(rotary.forward).parameters
    sample = torch.zeros(1, 1, 2, size, device=next(layer.parameters()).device)  # fp32: angles are not rounded
    types = getattr(getattr(rotary, "config", None), "layer_types", None)
    more = {"layer_type": types[index]} if "layer_type" in names and types else {}
    sections = _sections(rotary, attention)

    def angles(position: Any) -> Any:
        with torch.no_grad():
            if "position_ids" in names:
                cosine, sine = rotary(sample, position_ids=position.to(sample.device), **more)
            else:
                cosine, sine = (each[..., -1:, :] for each in rotary(sample, seq_len=2))
        return torch.atan2(sine.double(), cosine.double()).cpu()

    if sections is None:
        frequency = _halved(angles(torch.ones(1, 1, dtype=torch.long)).flatten())
        return frequency, torch.zeros(len(frequency), dtype=torch.long)
    one = torch.eye(3, dtype=torch.long)[:, :, None, None]
    found = [angles(each) for each in one]
    if found[0].numel() > found[0].shape[-1]:  # the axes are joined where keys are rotated
        frequency = _halved(found[0][0].flatten())
        return frequency, torch.arange(3).repeat_interleave(torch.tensor(sections))
    each_axis = torch.stack([_halved(angle.flatten()) for angle in found])
    return each_axis.sum(0), each_axis.abs().argmax(0)


def _halved(angle: Any) -> Any:
    """Float[D] with every angle twice, or each once -> each once."""
    half = len(angle) // 2
    if torch.equal(angle[:half], angle[half:]):
        return angle[:half]
    return angle[0::2] if torch.equal(angle[0::2], angle[1::2]) else angle


def _sections(rotary: Any, attention: Any) -> Any:
    """How the axes of M-RoPE share the frequencies; None of a rotation with one axis."""
    configs = [getattr(each, "config", None) for each in (rotary, attention)]
    places = [getattr(c, name, None) for c in configs for name in ("rope_parameters", "rope_scaling")]
    places.append(getattr(attention, "rope_scaling", None))
    found = [place["mrope_section"] for place in places if isinstance(place, dict) and place.get("mrope_section")]
    return getattr(rotary, "mrope_section", None) or (found[0] if found else None)


def _number(attention: Any, names: tuple[str, ...]) -> int:
    """How many heads of queries there are."""
    for owner in (attention, getattr(attention, "config", None)):
        for name in names:
            if hasattr(owner, name):
                return int(getattr(owner, name))
    raise ValueError(f"{type(attention).__name__} says nothing of its number of heads")
