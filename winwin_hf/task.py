"""The tasks, in one table: what each is called, which class learns it, what it takes, predicts and is scored by.

Nothing here imports torch or transformers, so that the command line answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskName = Literal["optical-flow", "semantic-segmentation", "depth-estimation", "pre-training"]  # of recipes
DataTask = Literal["optical-flow", "semantic-segmentation", "depth-estimation"]  # of data sets


class DoesNotFit(ValueError):
    """What is right by itself and wrong beside the rest, such as a checkpoint of another task: misuse, exit code 2 of the command line."""


@dataclass(frozen=True)
class Task:
    """
    One row of the table.

    Attributes:
        name: in recipes, data sets, shards and exported files.
        title: in sentences. headline: in a model card.
        architecture: the model's class, as config.json's "architectures" has it. auto_classes: which load it.
        tag: the Hub's pipeline tag. pipeline: transformers' name of the pipeline, None where there is none.
        example: a pipeline call, with {name} and {options}.
        data: the data sets that it learns from, None if it isn't trained.
        images, target: the columns of a row. reader: the class in data/readers.py.
        inputs, outputs: names of the model's tensors; outputs with what they mean.
        figure: by which one image is better than another; lower_is_better: its direction.
        suffix: of the file that the command line writes. checkpoint: the bundled one.
    """

    name: str
    title: str
    headline: str
    architecture: str
    auto_classes: tuple[str, ...] = ("AutoModel",)
    tag: str = "image-feature-extraction"
    pipeline: str | None = None
    example: str | None = None
    data: DataTask | None = None
    images: tuple[str, ...] = ("image",)
    target: str = ""
    reader: str = ""
    inputs: tuple[str, ...] = ("pixel_values",)
    outputs: tuple[tuple[str, str], ...] = ()
    figure: str = ""
    lower_is_better: bool = True
    suffix: str = ""
    checkpoint: str | None = None


_TABLE = (
    Task(
        name="optical-flow",
        title="optical flow",
        headline="Optical flow between two frames",
        architecture="WinWinForOpticalFlow",
        tag="optical-flow-estimation",
        pipeline="optical-flow",
        example='pipeline("optical-flow", model="{name}"{options})(frame1, frame2)["flow"]  # (2, H, W), pixels',
        data="optical-flow",
        images=("image1", "image2"),
        target="flow",
        reader="FlowReader",
        inputs=("pixel_values", "second_pixel_values"),
        outputs=(
            ("flow", "(right, down) from the first view to the second, in pixels"),
            ("log_scale", "logit of the flow's uncertainty; confidence is 1 - sigmoid of it"),
        ),
        figure="epe",
        suffix=".flo",
        checkpoint="winwin-flow",
    ),
    Task(
        name="semantic-segmentation",
        title="semantic segmentation",
        headline="Semantic segmentation of one image",
        architecture="WinWinForSemanticSegmentation",
        auto_classes=("AutoModel", "AutoModelForSemanticSegmentation"),
        tag="image-segmentation",
        pipeline="image-segmentation",
        example='pipeline("image-segmentation", model="{name}"{options})(image)',
        data="semantic-segmentation",
        target="label",
        reader="SegmentationReader",
        outputs=(("logits", "of each class; their names are id2label of config.json"),),
        figure="miou",
        lower_is_better=False,
        suffix=".png",
        checkpoint="winwin-seg",
    ),
    Task(
        name="depth-estimation",
        title="depth estimation",
        headline="Metric depth from one image",
        architecture="WinWinForDepthEstimation",
        auto_classes=("AutoModel", "AutoModelForDepthEstimation"),
        tag="depth-estimation",
        pipeline="depth-estimation",
        example='pipeline("depth-estimation", model="{name}"{options})(image)["predicted_depth"]  # metres',
        data="depth-estimation",
        target="depth",
        reader="DepthReader",
        outputs=(("predicted_depth", "metres"),),
        figure="abs_rel",
        suffix=".npy",
        checkpoint="winwin-depth",
    ),
    Task(
        name="pre-training",
        title="pre-training",
        headline="Cross-view completion, to start other trainings from",
        architecture="WinWinForPreTraining",
        auto_classes=("AutoModel", "AutoModelForPreTraining"),
        data="optical-flow",
        images=("image1", "image2"),
        inputs=("pixel_values", "second_pixel_values"),
    ),
    Task(name="features", title="features", headline="Features of an image", architecture="WinWinModel"),
    Task(
        name="backbone",
        title="features",
        headline="Features of an image",
        architecture="WinWinBackbone",
        auto_classes=("AutoBackbone",),
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _TABLE}
ARCHITECTURES: dict[str, Task] = {task.architecture: task for task in _TABLE}
DENSE: dict[str, Task] = {task.name: task for task in _TABLE if task.outputs}  # those that predict a map
