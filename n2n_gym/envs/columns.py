"""The columns of an observation: a fixed table, from which policies read by name.

A column keeps its name, its place, its meaning and its unit for ever; new ones are
appended, whatever they say. Policies select columns by name. All values are in [0, 1].
"""

from __future__ import annotations

from typing import Final

DECIDES: Final = ("unit", "branch", "layer", "width", "kernel", "padding")
# Where limits can be on; what is neither is "other".
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
# A kind's place is its number in `type`, of so many; it never changes.
PLACES: Final = 64
KINDS: Final = (
    *("Conv", "DepthwiseConv", "Linear", "BatchNorm", "LayerNorm", "Scale"),
    *("Activation", "Dropout", "StochasticDepth", "MaxPool", "AvgPool"),
    *("AdaptiveAvgPool", "SpatialMean", "Flatten", "Chunk", "ChannelShuffle"),
    *("Add", "Multiply", "Concat"),
    *("GroupNorm", "InstanceNorm", "PReLU", "Clamp", "Affine", "Pad", "PadChannels"),
    *("Slice", "ChannelSlice", "Interpolate", "AsMap"),
)

# Each column with what it says. The order is that of the array.
ABOUT: Final[dict[str, str]] = {
    # The row's layers, as they are in the start.
    "type": "place of the lead layer's kind in the table of kinds, / 64",
    "kernel": "longer side of its kernel, / 11",
    "stride": "its stride, / 4",
    "padding": "its padding, / 5",
    "outputs": "log2(1 + its output channels), / 16",
    "skip_start": "1 / (1 + convolutions since the fork of the skip around it)",
    "skip_end": "1 / (1 + convolutions until the join of that skip)",
    "depth": "its position among the layers, as a share",
    "inputs": "log2(1 + its input channels), / 16",
    "size": "log2(1 + width of its output map), / 9; 0 without a map",
    "params_share": "share of the start's parameters in the row's layers",
    "macs_share": "share of the start's multiply-accumulates in them",
    "fixed": "1 where nothing is decided about the row",
    **{f"decides_{what}": f"1 where its {what} is decided" for what in DECIDES},
    "is_row": "1; 0 in rows that only fill the observation up",
    # How far the episode is, in the row.
    "current": "1 in the row that is being decided; nowhere at the end",
    "decided": "1 once it has been",
    "choice": "then: 1 for removed, or the rate",
    # The state of the episode, the same in every row that is one.
    "left": "decisions that are left, as a share of all",
    **{
        f"taken_{share}": f"{share} of the student so far / the teacher's, 1 at most"
        for share in SHARES
    },
    **{
        f"least_{share}": "a lower bound of it for every student still in reach"
        for share in SHARES
    },
    **{
        f"target_{share}": "the limit on it, as a share of the teacher's; 1 for none"
        for share in SHARES
    },
    **{f"is_{kind}": f"1 where the lead layer is a {kind}" for kind in KINDS},
}
COLUMNS: Final = tuple(ABOUT)
PLACE: Final = {name: place for place, name in enumerate(COLUMNS)}
