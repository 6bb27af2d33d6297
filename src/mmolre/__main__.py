"""The command's entry, ``mmolre`` and ``python -m mmolre``; stopped while it is imported, it says so, too."""

import sys


def main() -> None:
    """Run the command."""
    try:
        from mmolre.cli import main as run
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
