"""`python -m cosa_guard.cli`, for environments without the `cosa` script."""

from cosa_guard.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
