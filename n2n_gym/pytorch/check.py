"""A module compared with what its trace builds: logits of random images, in float64.

torch.fx follows one path through a module's Python, and it is not always the one that
runs. So both compute logits with the same random weights, in eval mode and in training
mode, where the same random numbers are drawn.
"""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import Shape, ShapeError
from n2n_gym.pytorch.arguments import TraceError
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.graph import describe
from n2n_gym.pytorch.plain import tensors_of
from n2n_gym.pytorch.questions import (
    IN_FLOAT32,
    Translate,
    asks_questions,
    in_float32,
    refuse_other_counts,
)
from n2n_gym.pytorch.randomised import randomised
from n2n_gym.pytorch.regularisation import with_known_parts

logger = logging.getLogger(__name__)

TOLERANCE: Final = 1e-9  # of the largest value; equal operations differ by none
NUM_IMAGES: Final = 2  # batch norm in training mode needs two
SIDES: Final = (32, 48, 64, 96, 128, 192)  # of images that stand for larger ones
_SEEDS: Final = range(5)  # for weights that let the images through


def as_it_computes(
    module: nn.Module, input_shape: Shape, translate: Translate
) -> Architecture:
    """The architecture of a module, if it computes what the module does.

    Says by a warning which parameters the logits do not need, and where training mode
    computes something that there is no layer for.

    Raises:
        TraceError: Other logits; names the first layer whose values differ.
    """
    kind = type(module).__name__
    architecture = translate(module, input_shape)
    if asks_questions(module):
        refuse_other_counts(module, architecture, translate)
    comparison = _compared(module, architecture)
    difference = comparison.difference(is_training=True)
    if difference is not None:
        architecture, difference = _regularised(module, architecture, translate)
    if difference is not None:
        logger.warning(
            "%s: in training mode %s; students train without that", kind, difference
        )
    unused = comparison.unused_parameters()
    if unused:
        logger.warning(
            "%s: the logits need no %s: %d of its %d parameters are no part of the "
            "teacher",
            kind,
            ", ".join([*list(unused)[:3], *["..."] * (len(unused) > 3)]),
            sum(unused.values()),
            sum(parameter.numel() for parameter in module.parameters()),
        )
    return architecture


def _regularised(
    module: nn.Module, architecture: Architecture, translate: Translate
) -> tuple[Architecture, str | None]:
    """With what training mode adds, if there is a layer for it; what still differs."""
    known = with_known_parts(module)
    whole = architecture.input_shape
    for is_training in (True, False):
        try:
            found = translate(known, whole, is_training=is_training)
            _compared(module, found)
        except TraceError:
            continue
        architecture = found
        break
    comparison = _Comparison(known, architecture, whole)
    return architecture, comparison.difference(is_training=True)


def _compared(module: nn.Module, architecture: Architecture) -> _Comparison:
    """The comparison, once it has found equal logits in eval mode.

    Small images stand for large ones where the module calls the same functions of both.
    """
    whole = architecture.input_shape
    small = _small_images(architecture, 2)
    comparison = _Comparison(module, architecture, small)
    difference = comparison.difference(is_training=False)
    if small != whole and (difference or not comparison.calls_alike(whole)):
        comparison = _Comparison(module, architecture, whole)
        difference = comparison.difference(is_training=False)
    if difference is None and asks_questions(module):
        difference = comparison.difference_of_float32()
    if difference is not None:
        raise TraceError(
            f"{type(module).__name__} does not compute what torch.fx traces: in eval "
            f"mode {difference}. {_likely_cause(comparison.module)}"
        )
    return comparison


class _Comparison:
    """A module and what its trace builds, with the same random weights."""

    def __init__(
        self, module: nn.Module, architecture: Architecture, images: Shape
    ) -> None:
        for seed in _SEEDS:
            generator = torch.Generator().manual_seed(seed)
            self.module = randomised(module, generator)
            self.network = build(architecture, "meta")
            self.tensors = tensors_of(self.module)
            for name, wanted in self.network.state_dict().items():
                found = self.tensors.get(name, torch.empty(0)).shape
                if found != wanted.shape:
                    raise TraceError(
                        f"{type(module).__name__}: {name!r} has the shape "
                        f"{tuple(found)}, but its layer is written as if it had "
                        f"{tuple(wanted.shape)}"
                    )
            self.network.load_state_dict(self.tensors, strict=False, assign=True)
            self.images = torch.randn(
                NUM_IMAGES, *images, generator=generator, dtype=torch.float64
            )
            self.training_images = self.images
            if images != architecture.input_shape:
                _, height, width = _small_images(architecture, 1)
                self.training_images = self.images[..., :height, :width]
            self.expected = self._run(self.network, is_training=False)
            if not torch.equal(*self.expected.logits):
                break

    def unused_parameters(self) -> dict[str, int]:
        """How many numbers those parameters have that the trace does not, by name."""
        used = dict(self.network.named_parameters())
        return {
            name: parameter.numel()
            for name, parameter in self.module.named_parameters()
            if name not in used
        }

    def difference(self, *, is_training: bool) -> str | None:
        """What the module does otherwise, in words; None where it does the same."""
        expected = self.expected
        if is_training:
            expected = self._run(self.network, is_training=True)
        try:
            found = self._run(self.module, is_training=is_training)
        except Exception as error:  # the user's own code, which may raise anything
            return f"it fails: {describe(error)}"
        if not is_training:
            self.calls = found.calls
        if not isinstance(found.logits, Tensor):
            return f"it gives a {type(found.logits).__name__} instead of logits"
        if found.logits.shape != expected.logits.shape:
            what = (
                f"it gives logits of the shape {tuple(found.logits.shape)}, not "
                f"{tuple(expected.logits.shape)}"
            )
        elif not _gives(found.logits, expected.logits):
            far = (found.logits - expected.logits).abs().max().item()
            largest = expected.logits.abs().max().item()
            what = f"logits differ by {far:.1g} where the largest is {largest:.1g}"
        elif is_training and found.draws != expected.draws:
            what = "it draws other random numbers"
        else:
            return None
        return f"{what}, and {self._first_layer(is_training=is_training)}"

    def difference_of_float32(self) -> str | None:
        """What the module does otherwise with float32, in inference mode."""
        expected = self.expected.logits
        try:
            with _seeded():
                found = in_float32(self.module, self.images)
        except Exception as error:  # the user's own code, which may raise anything
            return f"it fails with float32: {describe(error)}"
        if isinstance(found, Tensor) and _gives(found.double(), expected, IN_FLOAT32):
            return None
        return "it gives other logits with float32, or in inference mode"

    def calls_alike(self, images: Shape) -> bool:
        """Whether the module calls the same functions of images of another size."""
        if not self.calls.tell_size:
            return True
        on_meta = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            for name, tensor in self.tensors.items()
        }
        larger = torch.empty(NUM_IMAGES, *images, dtype=torch.float64, device="meta")
        calls = _Calls()
        try:
            with torch.no_grad(), calls:
                functional_call(self.module.eval(), on_meta, (larger,))
        except Exception:  # the user's own code, which may need real numbers
            return False
        return calls.names == self.calls.names

    def _run(self, part: nn.Module, *, is_training: bool) -> _Run:
        part = part.train() if is_training else part.eval()
        images = self.training_images if is_training else self.images
        calls = _Calls()
        with _seeded(), torch.set_grad_enabled(is_training):
            with calls if part is self.module else nullcontext():
                logits = part(images.clone())
            return _Run(logits, _draws(), calls)

    def _first_layer(self, *, is_training: bool) -> str:
        """Which layer is the first with other values, in words."""
        seen: list[dict[str, Any]] = []
        for part in (self.module, self.network):
            with _recording(part) as values:
                try:
                    self._run(part, is_training=is_training)
                except Exception:  # it has failed before, and that was said
                    assert part is self.module
            seen.append(values)
        theirs, ours = seen
        weighted = {
            name.rpartition(".")[0] for name, _ in self.module.named_parameters()
        }
        before = ""
        for name, (value, draws) in theirs.items():
            if name not in ours:
                if name in weighted:
                    return f"it calls {name!r}, which its trace does not{before}"
                continue
            other, other_draws = ours[name]
            if not _are_alike(value, other) or (is_training and draws != other_draws):
                return f"the first layer where they part is {name!r}{before}"
            before = f", after {name!r}"
        return f"no layer is the first where they part{before}"


class _Calls(TorchFunctionMode):
    """Keeps the names of torch's functions that are called, and all in float64.

    Whatever gives no tensor may tell Python how large the images are.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.tell_size = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        result = func(*args, **kwargs or {})
        if not isinstance(result, Tensor):
            self.tell_size |= self.names[-1] != "dim"
        elif result.is_floating_point():
            return result.double()
        return result


class _Run(NamedTuple):
    """What a module gives for images, what it has drawn, and torch's functions."""

    logits: Any
    draws: tuple[object, ...]
    calls: _Calls


@contextmanager
def _seeded() -> Iterator[None]:
    """All generators that a module may draw from, as they were before afterwards."""
    python, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    with seeded(0, torch.device("cpu")):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)  # noqa: NPY002


def _draws() -> tuple[object, ...]:
    """What has been drawn, in that all generators began alike."""
    torchs = torch.default_generator.get_state().numpy().tobytes()
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002
    return torchs, random.getstate(), repr(numpys)


@contextmanager
def _recording(part: nn.Module) -> Iterator[dict[str, Any]]:
    """What each module in it gives at its first call, by name."""
    values: dict[str, Any] = {}

    def record(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            values.setdefault(name, (output.clone(), _draws()))

    modules = [(name, module) for name, module in part.named_modules() if name]
    hooks = [m.register_forward_hook(partial(record, name)) for name, m in modules]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def _are_alike(values: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> bool:
    if values.shape != expected.shape:  # a map may be held with its channels last
        values = values.movedim(-1, 1) if values.dim() == 4 else values
    if values.shape != expected.shape:
        return False
    far = (values - expected).abs().max()
    return bool(far <= tolerance * expected.abs().max())


def _gives(found: Tensor, logits: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether these are the logits, or what a softmax at the end makes of them."""
    probabilities = (logits.softmax(1), logits.log_softmax(1))
    return any(_are_alike(found, each, tolerance) for each in (logits, *probabilities))


def _small_images(architecture: Architecture, least: int) -> Shape:
    """The smallest images of which no map is less than so many places wide or high.

    A map of one place would hide a pool that is not in the trace, or the rim of a
    kernel. What has no more places for whole images has no more here.
    """
    channels, *size = whole = architecture.input_shape
    for side in SIDES:
        if side >= max(size):
            break
        small = (channels, *[max(1, side * length // max(size)) for length in size])
        try:
            other = Architecture(small, architecture.layers)
        except ShapeError:
            continue
        if other.num_params != architecture.num_params:
            continue
        pairs = (
            (other.shape_of(position), architecture.shape_of(position))
            for position in range(len(architecture.layers))
        )
        if all(min((least, *o[1:])) >= min((least, *w[1:])) for o, w in pairs):
            return small
    return whole


def _likely_cause(module: nn.Module) -> str:
    """What may explain it: what is unusual about the module."""
    for name, part in module.named_modules():
        for method, value in vars(part).items():
            if callable(value) and inspect.isfunction(getattr(type(part), method, 0)):
                return (
                    f"{method} of {name or 'the module'} is replaced on the instance, "
                    f"and torch.fx follows its class"
                )
    for name, part in module.eval().named_modules():
        if part.training:
            return f"{name} stays in training mode"
    return (
        "Its forward asks something that torch.fx answers otherwise: the type of a "
        "tensor, an exception, whether gradients are computed"
    )
