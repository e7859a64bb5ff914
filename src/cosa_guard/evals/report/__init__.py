"""What a run tells its readers: a table, a page, files of rows, comparisons, and thresholds for a build to pass.

Each module takes a run's manifest, its rows, and a `cosa_sdk.score.Summary` for each of its systems.
"""

__all__ = ["comparing", "files", "html", "junit", "page", "plots", "reading", "table", "thresholds", "view"]
