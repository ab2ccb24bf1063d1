"""Comparison of a module with its trace, by logits of random images in float64.

torch.fx follows one path through a module's Python code, but the module can take
another path when it runs. So module and trace compute logits with the same random
weights: in eval mode, and in training mode with the same random numbers.
"""

from __future__ import annotations

import inspect
import logging
import pickle
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

TOLERANCE: Final = 1e-9  # of the largest value; equal operations give 0
NUM_IMAGES: Final = 2  # batch norm in training mode needs two
SIDES: Final = (32, 48, 64, 96, 128, 192)  # of images used instead of larger ones
_SEEDS: Final = range(5)  # tried until the logits depend on the images


def as_it_computes(
    module: nn.Module, input_shape: Shape, translate: Translate
) -> Architecture:
    """The architecture of a module, if both compute the same logits.

    Warnings name parameters that the logits do not need, and a computation in training
    mode that no layer represents.

    Raises:
        TraceError: Logits differ; the message names the first layer whose outputs do.
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
    """The architecture with the layers of training mode, such as dropout.

    Returns:
        The architecture, and its remaining difference from the module in training mode,
        in words; None if there is no difference.
    """
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
    """The comparison of a module and an architecture with equal logits in eval mode.

    Small images are used instead of large ones if the module calls the same functions
    for both. Unequal logits raise a ``TraceError``.
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
    """A module and the network of its trace, with the same random weights."""

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
        """Number of values in each parameter that the trace does not have, by name."""
        used = dict(self.network.named_parameters())
        return {
            name: parameter.numel()
            for name, parameter in self.module.named_parameters()
            if name not in used
        }

    def difference(self, *, is_training: bool) -> str | None:
        """The first difference of module and trace, in words; None if they agree."""
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
        """How module and trace differ in float32 and inference mode; None if not."""
        try:
            with _seeded():
                found = in_float32(self.module, self.images)
        except Exception as error:  # the user's own code, which may raise anything
            return f"it fails with float32: {describe(error)}"
        # Some networks amplify rounding, so the trace must compute in float32 too.
        expected = in_float32(self.network, self.images)
        if isinstance(found, Tensor) and _gives(found, expected, IN_FLOAT32):
            return None
        return "it gives other logits with float32, or in inference mode"

    def calls_alike(self, images: Shape) -> bool:
        """Whether the module calls the same functions for images of another size."""
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

    def _run(self, part: nn.Module, *, is_training: bool) -> _Answer:
        part = part.train() if is_training else part.eval()
        images = self.training_images if is_training else self.images
        calls = _Calls()
        with _seeded(), torch.set_grad_enabled(is_training):
            with calls if part is self.module else nullcontext():
                logits = part(images.clone())
            return _Answer(logits, _draws(), calls)

    def _first_layer(self, *, is_training: bool) -> str:
        """The first layer with different values in module and trace, in words."""
        seen: list[dict[str, Any]] = []
        for part in (self.module, self.network):
            with _recording(part) as values:
                try:
                    self._run(part, is_training=is_training)
                except Exception:  # it failed before, with an error
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
    """Records the calls of torch's functions, and converts their results to float64.

    ``tell_size`` tells whether a result could have told Python code the images' size:
    a function other than ``dim`` has returned something other than a tensor.
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


class _Answer(NamedTuple):
    """One run of a module: its logits, the generators' states, and calls of torch."""

    logits: Any
    draws: tuple[object, ...]
    calls: _Calls


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed all generators that a module may use; restore their states afterwards."""
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
    """The states of all generators; equal states mean equal numbers drawn."""
    torchs = torch.default_generator.get_state().numpy().tobytes()
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002
    return torchs, random.getstate(), pickle.dumps(numpys)


@contextmanager
def _recording(part: nn.Module) -> Iterator[dict[str, Any]]:
    """Record each submodule's first output and the generators' states, by name."""
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
    """Whether ``found`` has the logits, their softmax or their log-softmax."""
    probabilities = (logits.softmax(1), logits.log_softmax(1))
    return any(_are_alike(found, each, tolerance) for each in (logits, *probabilities))


def _small_images(architecture: Architecture, least: int) -> Shape:
    """Shape of the smallest images for which every map has at least this side.

    On a map of one position, a pool that is missing in the trace would not show, nor
    would the border of a kernel. Maps that are smaller even for full-size images are
    exempt.
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
    """A likely explanation of the difference: an unusual feature of the module."""
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
