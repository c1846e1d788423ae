"""The names of all metrics and what each one is; plain words alone, so that a configuration can ask."""

from __future__ import annotations

import difflib

METRIC_NAMES = {
    "mAP": "mean over classes of the average precision (macro)",
    "mAUC": "mean over classes of the area under the ROC curve (macro)",
    "d_prime": "d' of mAUC",
    "mAP_micro": "average precision of all clip-class pairs as one ranking",
    "mAUC_micro": "area under the ROC curve of all clip-class pairs as one ranking",
    "lwlrap": "mean over all labels of the precision at the label's rank among its clip's classes",
    "f1_micro": "F1 of all clip-class pairs at probability 0.5",
    "f1_macro": "mean over classes of F1 at probability 0.5",
    "precision_micro": "precision of all clip-class pairs at probability 0.5",
    "precision_macro": "mean over classes of the precision at probability 0.5",
    "recall_micro": "recall of all clip-class pairs at probability 0.5",
    "recall_macro": "mean over classes of the recall at probability 0.5",
    "f1_micro_best": "F1 of all clip-class pairs at the one threshold that is best on these same clips",
    "f1_macro_best": "mean over classes of F1 at each class's threshold that is best on these same clips",
    "ece_micro": "expected calibration error of all clip-class pairs, 15 bins of probability",
    "ece_macro": "mean over classes of the expected calibration error, 15 bins of probability",
    "accuracy": "share of clips whose highest score is their first label in the order of classes",
    "top1_in_labels": "share of the clips with labels whose highest score is any of their labels",
    "exact_match": "share of clips with every class right at probability 0.5",
    "loss": "mean binary cross-entropy of the probabilities in nats",
    "espnet_mAP": "ESPnet's table: 100 mAP, a class without positives counts 0",
    "espnet_mean_auc": "ESPnet's table: 100 mAUC, a class without positives or negatives counts 0",
    "espnet_mean_acc": "ESPnet's table: 100 accuracy",
    "distil_f1": "Distil-AST's table: f1_micro",
    "distil_roc_auc": "Distil-AST's table: area under the ROC curve of the 0/1 predictions at probability "
    "0.5, micro; (recall + specificity) / 2",
    "distil_accuracy": "Distil-AST's table: exact_match",
    "distil_mAP": "Distil-AST's table: mAP_micro",
}
# What needs thresholds that were tuned on other clips, and so is known in evaluations alone.
TUNED_NAMES = {
    "f1_micro_tuned": "F1 of all clip-class pairs at the one threshold that was tuned on valid",
    "f1_macro_tuned": "mean over classes of F1 at each class's threshold that was tuned on valid",
}
LESS_IS_BETTER = frozenset({"ece_micro", "ece_macro", "loss"})


def less_is_better(name: str) -> bool:
    """Whether a lower value of the metric is the better one."""
    return name in LESS_IS_BETTER


def check_metric_name(name: str) -> str:
    """The name, or a ValueError with the nearest one that validation can measure."""
    if name in METRIC_NAMES:
        return name
    lower = {known.lower(): known for known in METRIC_NAMES}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f"did you mean '{lower[near[0]]}'?" if near else f"known: {', '.join(METRIC_NAMES)}"
    raise ValueError(f"unknown metric ({hint})")
