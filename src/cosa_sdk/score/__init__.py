"""CoSA-Score and what stands beside it: is a model controllable, by how much, and how sure is that?

Pure: rows go in, numbers come out, the same ones for the same seed. The paper's score is `cosa_score` (section 2 of
arXiv:2410.08968); `summarise` gives all measures of one system with their intervals, `compare` says which differences
between two systems are real. Where nobody judged helpfulness, `decision_score` and `contrast_accuracy` need only to
know what was answered and what was refused.
"""

from cosa_sdk.score.bootstrap import DRAWS
from cosa_sdk.score.comparison import Comparison, Difference, compare
from cosa_sdk.score.means import (
    ceiling,
    contrast_accuracy,
    cosa_score,
    decision_score,
    oracle,
    oracle_recovery,
    policy_lines,
    utility,
)
from cosa_sdk.score.rows import Answer, Interval, PromptType, Row
from cosa_sdk.score.summary import Cell, Summary, claims, summarise

__all__ = [
    "DRAWS",
    "Answer",
    "Cell",
    "Comparison",
    "Difference",
    "Interval",
    "PromptType",
    "Row",
    "Summary",
    "ceiling",
    "claims",
    "compare",
    "contrast_accuracy",
    "cosa_score",
    "decision_score",
    "oracle",
    "oracle_recovery",
    "policy_lines",
    "summarise",
    "utility",
]
