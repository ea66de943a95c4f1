"""The command `llm-gan`: the library from a shell. Every command answers --help."""

import io
import logging
import subprocess
import sys

from .parser import parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if it did its work, 1 with one sentence on stderr if it could not, 130 if interrupted."""
    options = parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that a redirected Windows console cannot write end no command
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__name__.rpartition(".")[0]).setLevel(logging.INFO)  # and not what other libraries note down
    try:
        options.command(options)
    except (ValueError, OSError, ModuleNotFoundError, subprocess.CalledProcessError, ArithmeticError, MemoryError) as error:
        print(f"llm-gan: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        further = "; --resume goes on from what was saved" if hasattr(options, "resume") else ""
        print(f"llm-gan: stopped{further}", file=sys.stderr)
        return 130
    return 0
