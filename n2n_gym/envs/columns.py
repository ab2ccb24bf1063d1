"""The columns of an observation: a fixed table. Policies read columns by name.

A column never changes its name, place, meaning or unit. New columns are appended.
All values are in [0, 1].
"""

from __future__ import annotations

from typing import Final

DECIDES: Final = ("unit", "branch", "layer", "width", "kernel", "padding")
# Resources that can be limited, with their columns; all others share "other".
RESOURCES: Final = {
    "num_params": "params",
    "num_macs": "macs",
    "onnx_bytes": "bytes",
    "peak_bytes": "peak",
    "latency_ms": "latency",
    "energy_mj": "energy",
}
OTHER: Final = "other"
SHARES: Final = (*RESOURCES.values(), OTHER)
# `type` is a kind's place in KINDS, divided by MAX_KINDS. A place never changes.
MAX_KINDS: Final = 64
KINDS: Final = (
    *("Conv", "DepthwiseConv", "Linear", "BatchNorm", "LayerNorm", "Scale"),
    *("Activation", "Dropout", "StochasticDepth", "MaxPool", "AvgPool"),
    *("AdaptiveAvgPool", "SpatialMean", "Flatten", "Chunk", "ChannelShuffle"),
    *("Add", "Multiply", "Concat"),
    *("GroupNorm", "InstanceNorm", "PReLU", "Clamp", "Affine", "Pad", "PadChannels"),
    *("Slice", "ChannelSlice", "Interpolate", "AsMap"),
)

# Each column with its meaning, in the order of the array.
ABOUT: Final[dict[str, str]] = {
    # The row's layers, in the start.
    "type": "place of the lead layer's kind in the table of kinds, / 64",
    "kernel": "longer side of the lead layer's kernel, / 11",
    "stride": "the lead layer's stride, / 4",
    "padding": "the lead layer's padding, / 5",
    "outputs": "log2(1 + the lead layer's output channels), / 16",
    "skip_start": "1 / (1 + convolutions since the start of the skip around it)",
    "skip_end": "1 / (1 + convolutions until the end of that skip)",
    "depth": "the lead layer's position / the number of layers",
    "inputs": "log2(1 + the lead layer's input channels), / 16",
    "size": "log2(1 + width of its output map), / 9; 0 if it has no map",
    "params_share": "parameters of the row's layers / all of the start's",
    "macs_share": "multiply-accumulates of the row's layers / the start's",
    "fixed": "1 if there is no decision about the row",
    **{f"decides_{what}": f"1 if the decision is about a {what}" for what in DECIDES},
    "is_row": "1; 0 in rows of padding",
    # Progress of the episode in the row.
    "current": "1 in the row of the next decision; 0 everywhere at the end",
    "decided": "1 after the decision about the row",
    "choice": "after the decision: the rate, or 1 for removed",
    # The state of the episode, equal in all rows except padding.
    "left": "remaining decisions / all decisions",
    **{
        f"taken_{share}": f"{share} of the student so far / the teacher's, at most 1"
        for share in SHARES
    },
    **{
        f"least_{share}": f"lower bound on {share} / the teacher's {share}"
        for share in SHARES
    },
    **{
        f"target_{share}": f"limit on {share} / the teacher's {share}; 1 if none"
        for share in SHARES
    },
    **{f"is_{kind}": f"1 if the lead layer is a {kind}" for kind in KINDS},
}
COLUMNS: Final = tuple(ABOUT)
PLACE: Final = {name: place for place, name in enumerate(COLUMNS)}
