"""Runs inside the sandbox: set limits, run a program from standard input, say the word if it came to its end.

Standard input is JSON: `program`, `word`, and the limits `cpu` (seconds), `memory`, `file` (bytes), `processes`. The
word goes to standard output only after the program has ended without an exception, so that neither `exit(0)` nor a
program that kills itself looks like a success. Imports nothing but the standard library.
"""

import json
import resource
import sys


def main() -> None:
    told = json.loads(sys.stdin.readline())
    program, word = told.pop("program"), told.pop("word")
    kinds = {
        "cpu": resource.RLIMIT_CPU,
        "memory": resource.RLIMIT_AS,
        "file": resource.RLIMIT_FSIZE,
        "processes": resource.RLIMIT_NPROC,
    }
    for name, limit in told.items():
        resource.setrlimit(kinds[name], (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = sys.stdout
    sys.stdout = sys.stderr  # what the program prints is not the answer
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # noqa: S102 - this is what the sandbox is for
    answer.write(word)
    answer.flush()


if __name__ == "__main__":
    main()
