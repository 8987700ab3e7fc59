"""The shell scripts that run on a device: POSIX ``sh`` with what coreutils, busybox and Android's toybox have in common.

On the device, a run has one folder with a random name::

    edgekd-3f9c.../
      keeper       process id of the keeper, the script that removes all of it when the connection ends
      run-1        process group of a program that runs now
      files/       what was pushed, and where programs run

Every script ends by writing a line with a random word and its exit status to stderr: only this proves that it ended there,
since ``ssh`` gives an exit status of its own for a lost connection, and old ``adb`` none at all.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_KILL = 'p=$(cat "$f" 2>/dev/null) && { kill -s KILL -- "-$p" || kill -s KILL "$p"; } 2>/dev/null'

_HASH = 'if command -v sha256sum >/dev/null 2>&1; then sha256sum < "$f"; else shasum -a 256 < "$f"; fi'


def quoted(arguments: Sequence[str]) -> str:
    """Return the arguments for a POSIX shell, each as one word.

    Raises:
        ValueError: One holds a null character, which no system takes.
    """
    if any("\0" in each for each in arguments):
        raise ValueError("an argument holds a null character")
    return " ".join(shlex.quote(each) for each in arguments)


def framed(script: str, word: str) -> str:
    """Return ``script`` with ``word`` before its output and, on stderr, ``word`` and its exit status after it.

    The first is there because start-up files of a login shell may print. The braces make a shell read all of the script
    before it runs any: half of one, of a lost connection, is never run.
    """
    return f"{{ echo {word}; ( {script} ); printf '\\n%s %d\\n' {word} $? >&2; }}"


def unframed(stdout: bytes, stderr: bytes, word: str) -> tuple[int | None, bytes, bytes]:
    """Return exit status, stdout and stderr of a :func:`framed` script; status ``None``: it did not end.

    Old ``adb`` has one stream for both outputs, with the line ends of a terminal; all is in stdout then.
    """
    start = body_start(stdout, word)
    stdout = stdout[start:] if start is not None else b""
    end = re.compile(rb"\r?\n" + word.encode() + rb" (\d+)\r?\n")
    if found := end.search(stderr):
        return int(found[1]), stdout, stderr[: found.start()] + stderr[found.end() :]
    if found := end.search(stdout):
        stdout = stdout[: found.start()] + stdout[found.end() :]
        return int(found[1]), stdout.replace(b"\r\n", b"\n"), stderr
    return None, stdout, stderr


def body_start(output: bytes, word: str) -> int | None:
    """Return where the output of a :func:`framed` script begins; ``None``: nowhere."""
    found = re.search(word.encode() + rb"\r?\n", output)
    return found.end() if found else None


def make_folder(parents: str, name: str) -> str:
    """Return the script that makes folder ``name`` in the first of ``parents`` that lets it, and sets ``t`` to its path.

    Args:
        parents: Words for the shell, quoted; variables of the device may be in them.
        name: Random, so that it is nobody else's; ``mkdir`` fails where it exists.
    """
    return (
        f'umask 077; t=; for r in {parents}; do mkdir -p "$r" 2>/dev/null; '
        f'if mkdir "$r/{name}" 2>/dev/null; then t=$(cd "$r/{name}" && pwd); break; fi; done; '
        '[ -n "$t" ] || { echo "no folder can be made on it" >&2; exit 1; }'
    )


def take_over(folder: str) -> str:
    """Return the script that sets ``t`` to the folder of a lost connection."""
    return (
        f't={shlex.quote(folder)}; [ -d "$t" ] || '
        '{ echo "the folder of this run is gone: it was restarted, or away for too long" >&2; exit 1; }'
    )


def keep_folder(folder_script: str, word: str, grace_s: int) -> str:
    """Return the script that guards a run's folder for as long as the connection lives.

    It says ``word`` and the folder, then reads. When it reads ``word`` it kills what runs there and removes the folder.
    At the end of its input, since the connection or edgekd died, it does so after ``grace_s`` seconds, unless a new keeper
    has taken over by then. It sleeps by the second, so that it ends soon where it is not needed any more.

    Args:
        folder_script: Sets ``t`` to the folder: :func:`make_folder` or :func:`take_over`.
        word: Random, one word.
        grace_s: Seconds that a new connection has for taking over.
    """
    return (
        f'{folder_script}; trap "" HUP INT TERM PIPE; '
        '{ mkdir -p "$t/files" && echo $$ > "$t/keeper"; } || { rm -rf "$t"; exit 1; }; '
        'mine() { [ "$(cat "$t/keeper" 2>/dev/null)" = $$ ]; }; '
        f'echo "{word} $t"; if read -r line && [ "$line" = {word} ]; then :; else n={grace_s}; '
        "while [ $n -gt 0 ] && mine; do sleep 1; n=$((n-1)); done; mine || exit 0; fi; "
        f'for f in "$t"/run-*; do {_KILL}; done; cd / && rm -rf "$t"'
    )


def remove_folder(folder: str) -> str:
    """Return the script that kills what runs in a run's folder and removes it."""
    return f't={shlex.quote(folder)}; for f in "$t"/run-*; do {_KILL}; done; rm -rf "$t"'


def kill_run(folder: str, number: int) -> str:
    """Return the script that kills program ``number`` of a run, and all that it started."""
    return f'f={shlex.quote(folder)}/run-{number}; {_KILL}; rm -f "$f"'


def run_program(folder: str, number: int, arguments: Sequence[str], limit_s: float, stdin: str) -> str:
    """Return the script that runs a program in a process group of its own, known by its number, and waits for its end.

    ``timeout``, where the device has it, is the last resort for a device that loses its connection without noticing.

    Args:
        folder: Of the run.
        number: Of this program within the run.
        arguments: Program and arguments.
        limit_s: Seconds after which the device itself stops it.
        stdin: File on the device that the program reads.
    """
    place, command = shlex.quote(folder), quoted(arguments)
    return (
        f"cd {place}/files || exit 1; "
        f"command -v {quoted(arguments[:1])} >/dev/null 2>&1 || {{ echo no such program >&2; exit 127; }}; "
        "s=; command -v setsid >/dev/null 2>&1 && s=setsid; "
        f'command -v timeout >/dev/null 2>&1 && s="$s timeout -s KILL {limit_s:.0f}"; '
        f"$s {command} < {shlex.quote(stdin)} & "
        f"p=$!; echo $p > {place}/run-{number}; wait $p; c=$?; rm -f {place}/run-{number}; exit $c"
    )


def size_and_hash_of(path: str) -> str:
    """Return the script that prints the bytes of a file on the device and their SHA-256, in this order."""
    return f'f={shlex.quote(path)}; wc -c < "$f" && {{ {_HASH}; }}'


def accept(part: str, target: str, sha256: str, *, executable: bool) -> str:
    """Return the script that gives what arrived as ``part`` its name and says ``same``, or removes it and says ``other``.

    It may run twice, where its first answer was lost: then the file has its name already.
    """
    mode = "u+x" if executable else "u-x"
    return (
        f'f={shlex.quote(part)}; [ -e "$f" ] || f={shlex.quote(target)}; '
        f'case $({_HASH}) in {sha256}*) echo same; chmod {mode} "$f" || exit 1; '
        f'case $f in */part-*) mv -f "$f" {shlex.quote(target)};; esac;; *) echo other; rm -f "$f";; esac'
    )
