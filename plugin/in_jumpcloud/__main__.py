"""The `in-jumpcloud` command, and `python -m in_jumpcloud`."""

from __future__ import annotations

import contextlib
import sys

from in_jumpcloud import __version__


def main() -> None:
    """Run the command. `--version` alone, which scripts often use, is answered without loading anything else."""
    if sys.argv[1:] == ["--version"] and sys.stdout:
        with contextlib.suppress(OSError):  # the command says what is wrong
            sys.stdout.write(f"in-jumpcloud {__version__}\n")
            sys.stdout.flush()
            return
    if "--supervised" in sys.argv:  # at once: until then the parent's port is held, whatever happens to the parent
        from in_jumpcloud.supervised import close_inherited  # noqa: PLC0415 - only for this option

        close_inherited()
    try:
        from in_jumpcloud import cli  # noqa: PLC0415 - see above

        cli.main()
    except KeyboardInterrupt:  # Ctrl-C while modules are being imported
        sys.exit(1)


if __name__ == "__main__":
    main()
