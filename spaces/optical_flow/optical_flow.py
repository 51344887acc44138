"""The evaluate module `optical_flow`: `evaluate.load("spaces/optical_flow")`. The formulas are in winwin_hf.evaluation.metrics."""

from typing import Any

import numpy as np

from winwin_hf.evaluation import evaluate_modules, metrics

DESCRIPTION = """\
Scores of dense optical flow, as Sintel, KITTI 2015 and Spring define them: end-point error (also by length of the true motion, and
of matched and unmatched pixels), outliers beyond 1, 3 and 5 px, Fl, and WAUC. Over all known pixels of all images.
"""

INPUTS = """
Args:
    predictions: flow of each image, (2, H, W) or (H, W, 2), pixels: u to the right, v downwards. Arrays or tensors; sizes may differ.
    references: the true flow, the same; unknown where a component is NaN, inf or not below 10000 px. With `double` also of twice
        the size, its values still in pixels of the image.
    occluded (optional): for each image a mask (H, W), or of the reference's size; True where the match isn't visible.
    uncertainty (optional): for each image a map (H, W), any increasing function of the expected error.
Options, for evaluate.load, or for a compute that is given all maps:
    double: "best" or "mean": how ground truth of twice the size is compared, see winwin_hf.evaluation.metrics.flow_sums. The
        configuration "spring" (evaluate.load(path, "spring")) is double="best", as in Spring's own evaluation.
Returns:
    epe: end-point error, pixels. 1px, 3px, 5px: percent of pixels with a larger error. fl: percent with an error above 3 px and above
    5 % of the true length. wauc: percent, higher is better. epe_s0_10, epe_s10_40, epe_s40: end-point error of pixels
    that truly move by less than 10, by 10 to 40, and by 40 px or more. epe_matched, epe_unmatched: of pixels that are not, and that
    are occluded. ause: area between an image's sparsification curve by `uncertainty` and the best possible one, as a share of its mean
    error; the mean over the images, 0 is best. NaN where nothing was known.
Raises:
    ValueError: sizes that don't fit; a prediction that isn't finite where the ground truth is known.
Examples:
    >>> import evaluate, numpy as np
    >>> metric = evaluate.load("spaces/optical_flow")
    >>> metric.add(prediction=np.zeros((2, 4, 5)), reference=np.full((2, 4, 5), 3.0))
    >>> round(metric.compute()["epe"], 2)
    4.24
"""

CITATION = """\
@inproceedings{butler2012sintel, title={A naturalistic open source movie for optical flow evaluation},
  author={Butler, D. J. and Wulff, J. and Stanley, G. B. and Black, M. J.}, booktitle={ECCV}, year={2012}}
@inproceedings{menze2015object, title={Object scene flow for autonomous vehicles}, author={Menze, Moritz and Geiger, Andreas},
  booktitle={CVPR}, year={2015}}
@inproceedings{richter2017playing, title={Playing for benchmarks}, author={Richter, Stephan R. and Hayder, Zeeshan and Koltun, Vladlen},
  booktitle={ICCV}, year={2017}}
@inproceedings{mehl2023spring, title={Spring: A high-resolution high-detail dataset and benchmark for scene flow, optical flow and stereo},
  author={Mehl, Lukas and Schmalfuss, Jenny and Jahedi, Azin and Nalivayko, Yaroslava and Bruhn, Andr{\\'e}s},
  booktitle={CVPR}, year={2023}}
"""


class OpticalFlow(evaluate_modules.DenseMetric):
    metric = metrics.FlowMetric
    axes, value, extra = 3, "float32", ("occluded", "uncertainty")
    configurations = {"spring": {"double": "best"}}
    texts = {
        "description": DESCRIPTION,
        "inputs_description": INPUTS,
        "citation": CITATION,
        "reference_urls": [
            "http://sintel.is.tue.mpg.de",
            "https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php?benchmark=flow",
            "https://spring-benchmark.org",
        ],
    }

    def array(self, values: Any, name: str) -> np.ndarray:
        """(2, H, W); (H, W, 2) is turned. Where both could be meant, (2, H, 2), the first is."""
        array = super().array(values, name)
        last = array.ndim == 3 and array.shape[0] != 2 and array.shape[2] == 2
        return array.transpose(2, 0, 1) if last else array
