"""What judges and systems are worth: measured on labelled rows, with intervals, never quoted from memory."""

__all__ = ["judge_report", "judging", "metrics"]
