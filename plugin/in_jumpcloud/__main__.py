"""The `in-jumpcloud` command, and `python -m in_jumpcloud`."""

from __future__ import annotations

import sys

from in_jumpcloud import __version__


def main() -> None:
    """Run it. A bare `--version`, as scripts ask for it, is answered before anything else is loaded."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"in-jumpcloud {__version__}\n")
        return
    from in_jumpcloud import cli  # noqa: PLC0415 - see above

    cli.main()


if __name__ == "__main__":
    main()
