"""From counts of one step to a training: memory of each GPU, time of a step, hours, bytes to read. Plain arithmetic without torch.

Every number that is not counted is here, with its source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

GB = 1e9


@dataclass(frozen=True)
class Gpu:
    """
    A kind of GPU.

    Attributes:
        tflops: of dense bf16 products, by the data sheet.
        memory: GB. bandwidth: of the memory, GB/s.
        inside, between: bus bandwidth of an all-reduce in a node of eight and across nodes, GB/s ("busbw" of nccl-tests).
    """

    name: str
    tflops: float
    memory: float
    bandwidth: float
    inside: float
    between: float


# Data sheets of the SXM modules. Bus bandwidths are half of those that nccl-tests reach with gigabytes, because DDP sends buckets of 25 MB.
# H100 with NVLink: 476 GB/s in a node, 8 x 46 GB/s across with one 400 Gb/s card for each GPU (NVIDIA/nccl-tests#290).
# A100: about 230 in a node (our estimate), 85 across with 4 cards of 200 Gb/s in a node (NVIDIA/nccl-tests#119).
GPUS = {
    "h100": Gpu("H100 SXM", 989, 80, 3350, 238, 184),
    "h200": Gpu("H200 SXM", 989, 141, 4800, 238, 184),
    "a100": Gpu("A100 SXM 80 GB", 312, 80, 2039, 115, 43),
}


@dataclass(frozen=True)
class Assumptions:
    """
    What is neither counted nor on a data sheet.

    Attributes:
        share: of `Gpu.tflops`, reached by a long step.
        launch: seconds to send one operation from Python to the GPU.
        usable: share of a GPU's memory.
        node: GPUs in a node.
        stream: share of the memory's bandwidth that the optimiser reaches.
    """

    share: float = 0.2
    launch: float = 1e-5
    usable: float = 0.9
    node: int = 8
    stream: float = 0.8


@dataclass(frozen=True)
class Store:
    """
    Prices of an object store in dollars, and its limits.

    Attributes:
        month: of a GB. request: of a thousand GETs.
        region, internet: of a GB that leaves to another region of the provider, or to the internet. Within the region it costs nothing.
        rate: GETs a second of one prefix.
    """

    month: float
    request: float
    region: float
    internet: float
    rate: float


# Amazon S3, us-east-1, list prices of the first terabytes as reports of 2026 have them, and its documented rate.
S3 = Store(0.023, 0.0004, 0.02, 0.09, 5500)
SHARD_GB, REQUEST_MB = 0.5, 8 * 2**20 / 1e6  # `winwin data shards` writes the one, shards/caching.py reads by the other

# Bytes for each parameter. Weights, AdamW's moments and the average of the weights (`ema_decay`) are float32, as in winwin_hf/training.
WEIGHTS, GRADIENT, MOMENTS, AVERAGE, BUCKETS, COPY = 4, 4, 8, 4, 4, 2
# Bytes that an update reads and writes: clipping (gradients 3 times), AdamW (16 read, 12 written), the average (8 read, 4 written).
UPDATE = 12 + 28 + 12

# Spring (https://doi.org/10.18419/darus-3376): 13.4 GB a camera for 5,000 frames, 47.2 GB for the 4,963 flow fields of a camera and
# direction; 19,852 pairs with ground truth.
PAIRS = 19852
PNG_MB, FLO5_MB = 13.4e3 / 5000, 47.2e3 / 4963
FRAME = (1080, 1920)

# Lengths of trainings in pairs, from CroCo-Flow's commands: 240 epochs of 30,000 pairs; then 12 epochs of Spring; 8 pairs a step.
SCHEDULES = {"12 epochs of Spring": 12 * PAIRS, "240 x 30,000 pairs": 240 * 30000}


@dataclass(frozen=True)
class Counted:
    """
    A training step of one network, counted at two batch sizes.

    Attributes:
        tokens: of the first and of the second view.
        forward, backward: FLOPs of a pair. again: FLOPs that checkpointing adds.
        pair, pair_checkpointed: bytes that each pair adds to the peak.
        fixed, fixed_checkpointed: the rest of the peak, without weights, moments and average.
        inputs: bytes of a pair's tensors.
        launches, launches_checkpointed: operations of a step.
        layer: parameters of the largest block. rest: parameters outside the blocks.
    """

    tokens: tuple[int, int]
    parameters: int
    forward: float
    backward: float
    again: float
    pair: float
    fixed: float
    pair_checkpointed: float
    fixed_checkpointed: float
    inputs: float
    launches: int
    launches_checkpointed: int
    layer: int
    rest: int

    def flops(self, checkpointing: bool = False) -> float:
        """FLOPs of a pair, forward and backward."""
        return self.forward + self.backward + (self.again if checkpointing else 0)

    def step_bytes(self, batch: int, checkpointing: bool = False) -> float:
        """Peak of a step without weights, moments and average: activations, bf16 weights, gradients, inputs of this and the next batch."""
        pair, fixed = (self.pair_checkpointed, self.fixed_checkpointed) if checkpointing else (self.pair, self.fixed)
        return max(fixed + pair * batch, GRADIENT * self.parameters) + 2 * self.inputs * batch

    def memory(self, batch: int, gpus: int = 1, checkpointing: bool = False, sharded: bool = False) -> float:
        """
        Bytes of one GPU, replicated (DDP beyond one GPU) or sharded (FSDP2, float32 weights gathered a block at a time).

        Sharded is an estimate from counted parts: weights, gradients, moments and average in equal parts; two blocks and all that is
        outside the blocks gathered; one block's gradients; the bf16 copy of all weights that autocast makes.
        """
        state = (WEIGHTS + MOMENTS + AVERAGE) * self.parameters
        if not sharded:
            return state + (BUCKETS * self.parameters if gpus > 1 else 0) + self.step_bytes(batch, checkpointing)
        parts = (WEIGHTS + MOMENTS + AVERAGE + GRADIENT) * self.parameters / gpus
        gathered = WEIGHTS * (2 * self.layer + self.rest) + GRADIENT * self.layer + COPY * self.parameters
        pair = self.pair_checkpointed if checkpointing else self.pair
        return parts + gathered + (pair + 2 * self.inputs) * batch

    def most(self, bytes: float, gpus: int = 1, checkpointing: bool = False) -> int:
        """The most pairs of a step that fit into `bytes`."""
        batch = 0
        for more in (2**k for k in reversed(range(20))):
            if self.memory(batch + more, gpus, checkpointing) <= bytes:
                batch += more
        return batch


@dataclass(frozen=True)
class Plan:
    """
    A training on `gpus` GPUs with `batch` pairs a step on each, in `accumulation` parts.

    Attributes:
        compute: seconds of a step for its FLOPs. launch: seconds to send its operations; the longer of both counts.
        communication: seconds of the all-reduce. exposed: the part that the backward pass doesn't hide.
        update: seconds of the optimiser. seconds: of the whole step.
        memory: bytes of a GPU.
        rate: pairs a second, of all GPUs.
    """

    gpus: int
    batch: int
    accumulation: int
    checkpointing: bool
    compute: float
    launch: float
    communication: float
    exposed: float
    update: float
    seconds: float
    memory: float
    rate: float

    def hours(self, pairs: float) -> float:
        return pairs / self.rate / 3600

    def steps(self, pairs: float) -> int:
        return round(pairs / (self.gpus * self.batch))


def plan(counted: Counted, gpus: int, batch: int, gpu: Gpu, given: Assumptions) -> Plan:
    """
    Plans a training: with checkpointing only if no pair fits without, and in as few equal parts as fit into the memory.

    Raises: ValueError if not even one pair fits.
    """
    room = gpu.memory * GB * given.usable
    for checkpointing in (False, True):
        most = counted.most(room, gpus, checkpointing)
        if most:
            break
    else:
        raise ValueError(f"not even one pair fits into {gpu.memory:g} GB")
    parts = next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= most)
    compute = batch * counted.flops(checkpointing) / (gpu.tflops * 1e12 * given.share)
    launch = parts * given.launch * (counted.launches_checkpointed if checkpointing else counted.launches)
    run = max(compute, launch)
    bus = (gpu.inside if gpus <= given.node else gpu.between) * GB
    communication = 2 * (gpus - 1) / gpus * GRADIENT * counted.parameters / bus
    backward = 1 - counted.forward / counted.flops(checkpointing)
    exposed = max(0.0, communication - run / parts * backward)  # gradients are sent in the last part only
    update = UPDATE * counted.parameters / (gpu.bandwidth * GB * given.stream)
    seconds = run + exposed + update
    return Plan(
        gpus,
        batch,
        parts,
        checkpointing,
        compute,
        launch,
        communication,
        exposed,
        update,
        seconds,
        counted.memory(batch // parts, gpus, checkpointing),
        gpus * batch / seconds,
    )


def gpu_of(name: str, tflops: float | None = None, memory: float | None = None) -> Gpu:
    """A GPU of `GPUS`, with other TFLOP/s and memory where they are given. Raises ValueError for an unknown name."""
    if name not in GPUS:
        raise ValueError(f"--gpu {name}: expected one of {', '.join(GPUS)}, or --tflops and --memory")
    gpu = GPUS[name]
    if tflops or memory:
        gpu = replace(gpu, name="the GPU", tflops=tflops or gpu.tflops, memory=memory or gpu.memory)
    return gpu


def frame_bytes(kept: dict[str, Any]) -> dict[str, float]:
    """MB of one pair: of its files, of the decoded frames (8-bit, float32 flow of the frames' size), of the windows."""
    height, width = FRAME
    (n, h, w), (m, h2, w2) = kept["first"], kept["second"]
    patch = 16 * 16
    return {
        "files": 2 * PNG_MB + FLO5_MB,
        "frames": height * width * (2 * 3 + 8) / 1e6,
        "windows": patch * (n * h * w * (3 + 8) + m * h2 * w2 * 3) / 1e6,
    }
