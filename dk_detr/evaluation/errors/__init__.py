"""Why is AP low: what the detections are that count, what oracles would add, and which words are taken for which."""

from dk_detr.evaluation.errors.analysis import Analysis, GroupErrors, analyse, analyse_files, as_record
from dk_detr.evaluation.errors.tables import report, word_table

__all__ = ["Analysis", "GroupErrors", "analyse", "analyse_files", "as_record", "report", "word_table"]
