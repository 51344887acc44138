"""The evaluate module `monocular_depth`: `evaluate.load("spaces/monocular_depth")`. The formulas are in
winwin_hf.evaluation.metrics."""

from winwin_hf.evaluation import evaluate_modules, metrics

DESCRIPTION = """\
Scores of dense metric depth, as the field reports them on NYUv2 and KITTI (Eigen et al. 2014, Geiger et al.): AbsRel, SqRel, RMSE,
RMSE log, log10, SILog, delta1 to delta3. Each is taken per image, then averaged over the images that have known pixels.
"""

INPUTS = """
Args:
    predictions: depth of each image, (H, W), metres. Arrays or tensors; sizes may differ from image to image.
    references: the true depth, the same; unknown where it is not finite or outside min_depth to max_depth (so 0, too).
Options, for evaluate.load, or for a compute that is given all maps:
    min_depth, max_depth: metres, default 0.001 and infinity. Predictions are clipped to them.
    crop: None, "eigen" (NYUv2) or "garg" (KITTI): only pixels inside are scored.
    align: None, "median" (the prediction is scaled so that the medians agree) or "least-squares" (scale and shift of the depth).
    Configurations (evaluate.load(path, "nyu")): "nyu" is max_depth=10, crop="eigen"; "kitti" is max_depth=80, crop="garg".
Returns:
    abs_rel: mean |p - t| / t. sq_rel: mean (p - t)^2 / t, metres. rmse: metres. rmse_log, log10: of the logarithms. silog: 100 times
    the deviation of the logarithms' difference. delta1, delta2, delta3: percent of pixels with max(p / t, t / p) below 1.25, 1.25^2,
    1.25^3; higher is better. NaN if nothing was known.
Raises:
    ValueError: sizes that don't fit; a prediction that isn't finite where the ground truth is known.
Examples:
    >>> import evaluate, numpy as np
    >>> metric = evaluate.load("spaces/monocular_depth", max_depth=10)
    >>> metric.add(prediction=np.full((4, 5), 1.1), reference=np.ones((4, 5)))
    >>> round(metric.compute()["abs_rel"], 2)
    0.1
"""

CITATION = """\
@inproceedings{eigen2014depth, title={Depth map prediction from a single image using a multi-scale deep network},
  author={Eigen, David and Puhrsch, Christian and Fergus, Rob}, booktitle={NeurIPS}, year={2014}}
@inproceedings{garg2016unsupervised, title={Unsupervised CNN for single view depth estimation: Geometry to the rescue},
  author={Garg, Ravi and Kumar, Vijay and Carneiro, Gustavo and Reid, Ian}, booktitle={ECCV}, year={2016}}
@inproceedings{uhrig2017sparsity, title={Sparsity invariant CNNs},
  author={Uhrig, Jonas and Schneider, Nick and Schneider, Lukas and Franke, Uwe and Brox, Thomas and Geiger, Andreas},
  booktitle={3DV}, year={2017}}
"""


class MonocularDepth(evaluate_modules.DenseMetric):
    metric = metrics.DepthMetric
    axes, value = 2, "float32"
    configurations = {"nyu": {"max_depth": 10.0, "crop": "eigen"}, "kitti": {"max_depth": 80.0, "crop": "garg"}}
    texts = {
        "description": DESCRIPTION,
        "inputs_description": INPUTS,
        "citation": CITATION,
        "reference_urls": ["https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction"],
    }
