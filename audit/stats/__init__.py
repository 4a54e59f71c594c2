"""Intervals, exact tests, resampling and multiple testing: the uncertainty that every verdict rests on.

Each interval is two-sided at `level`, with (1 - level) / 2 on either side, and has a one-sided p-value as its partner:
p <= (1 - level) / 2 where the interval excludes the threshold on the side of the alternative. A p-value of 1 where the
observed value lies on the threshold at the end of its range speaks of a strict excess: a gate that equality meets too
(``>= 0`` of a rate) is met by every value there, which the interval shows and the p-value does not.

Samples are independent unless a function says otherwise. Numbers that are no sample raise `ValueError`: they are the
caller's mistake, never an "inconclusive".
"""

from audit.stats.conventions import Alternative
from audit.stats.means import mean_and_se, n_to_resolve_by_scaling, paired_mean_difference, t_interval, t_p_value
from audit.stats.multiplicity import holm
from audit.stats.proportions import binomial_p_value, clopper_pearson, mcnemar_exact, n_to_resolve_proportion
from audit.stats.ranking import auc, auc_interval, auc_p_value, delong_se, roc_curve_points, tpr_at_fpr
from audit.stats.resampling import bootstrap_replicates, resampled_interval, resampled_p_value

__all__ = [
    "Alternative",
    "auc",
    "auc_interval",
    "auc_p_value",
    "binomial_p_value",
    "bootstrap_replicates",
    "clopper_pearson",
    "delong_se",
    "holm",
    "mcnemar_exact",
    "mean_and_se",
    "n_to_resolve_by_scaling",
    "n_to_resolve_proportion",
    "paired_mean_difference",
    "resampled_interval",
    "resampled_p_value",
    "roc_curve_points",
    "t_interval",
    "t_p_value",
    "tpr_at_fpr",
]
