"""The evaluate module `semantic_segmentation`: `evaluate.load("spaces/semantic_segmentation")`. The formulas are in
winwin_hf.evaluation.metrics."""

from winwin_hf.evaluation import evaluate_modules

DESCRIPTION = """\
Scores of semantic segmentation from one confusion matrix of all images: mean intersection over union and the IoU of each class
(Everingham et al. 2015), accuracy of pixels, mean accuracy of the classes.
"""

INPUTS = """
Args:
    predictions: the class of each pixel, (H, W), whole numbers from 0. Arrays or tensors; sizes may differ from image to image.
    references: the true class, the same; pixels of the id `ignore` don't count.
Options, for evaluate.load or for compute:
    num_labels: number of classes; default: as many as occur.
    ignore, or ignore_index: the id of pixels that don't count; default 255.
    reduce_labels: label 0 is unknown and the others are one less; default False.
    names: of the classes, for `iou`; default "0", "1", ...
Returns:
    miou: percent, mean over the classes that occur in references or predictions. accuracy: percent of pixels. mean_accuracy:
    percent, mean over the classes that occur in the references. iou: percent by class name, NaN where a class doesn't occur.
Raises:
    ValueError: sizes that don't fit, types other than whole numbers, ids outside 0 to num_labels - 1 where pixels count.
Examples:
    >>> import evaluate, numpy as np
    >>> metric = evaluate.load("spaces/semantic_segmentation")
    >>> metric.add(prediction=np.array([[0, 1, 1]]), reference=np.array([[0, 1, 0]]))
    >>> metric.compute(num_labels=2)["miou"]
    50.0
"""

CITATION = """\
@article{everingham2015pascal, title={The Pascal Visual Object Classes challenge: A retrospective},
  author={Everingham, Mark and Eslami, S. M. Ali and Van Gool, Luc and Williams, Christopher K. I. and Winn, John and Zisserman, Andrew},
  journal={International Journal of Computer Vision}, year={2015}}
"""


class SemanticSegmentation(evaluate_modules.LabelMetric):
    texts = {
        "description": DESCRIPTION,
        "inputs_description": INPUTS,
        "citation": CITATION,
        "reference_urls": ["http://host.robots.ox.ac.uk/pascal/VOC"],
    }
