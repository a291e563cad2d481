"""Pages of the documentation: their code, run as one script, and their commands, checked."""

from __future__ import annotations

import configparser
import dataclasses
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator

import keras
from traced import gelu_by_erfc

from nested_fad_tf.cli import main

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "@@ block "
# What a page may tell to run besides this project's own commands.
_READERS_OWN = {"export", "python"}


def read(name: str) -> str:
    """The text of a page, by its path in the repository."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


@dataclasses.dataclass
class Block:
    """Python code, and the output the page shows right below it, if any."""

    code: str
    output: str | None


def blocks(text: str) -> Iterator[Block]:
    """The Python blocks of a page, in order."""
    fences = [(m[1], m[2], m.start(), m.end()) for m in FENCE.finditer(text)]
    for index, (language, code, _, end) in enumerate(fences):
        if language != "python":
            continue
        below = fences[index + 1] if index + 1 < len(fences) else None
        shown = below and below[0] == "text" and not text[end : below[2]].strip()
        yield Block(code, below[1] if shown else None)


def run(page: list[Block], folder: pathlib.Path, printed: Callable[[], str]) -> None:
    """Runs blocks as one script, and compares what they print with what the page shows.

    Args:
        page: The blocks.
        folder: The working directory, an empty one.
        printed: Gives what was printed since it was asked last.
    """
    # A file, since AutoGraph reads the source of what it converts.
    script = folder / "page.py"
    marked = (f"print({_MARK + str(i)!r})\n{block.code}" for i, block in enumerate(page))
    script.write_text("\n".join(marked), encoding="utf-8")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    keras.utils.clear_session()  # Keras counts layers, and names them accordingly.
    runpy.run_path(str(script))
    outputs = re.split(rf"^{_MARK}\d+\n", printed(), flags=re.MULTILINE)[1:]
    for block, output in zip(page, outputs, strict=True):
        # Pages show the GELU of 2.19 and newer; elsewhere the code has to run.
        if block.output is not None and gelu_by_erfc():
            assert _comparable(output) == _comparable(block.output), block.code


def _comparable(output: str) -> list[str]:
    """Output without what differs from run to run: how long the pass took, and trailing spaces."""
    output = re.sub(r"rewritten in [\d.]+ s", "rewritten in ... s", output)
    return [line.rstrip() for line in output.strip().splitlines()]


def check_commands(text: str) -> None:
    """Checks that the console blocks of a page are commands that there are, with their options."""
    for language, code in FENCE.findall(text):
        if language == "sh":
            subprocess.run(["bash", "-n"], input=code, text=True, check=True)
            for line in code.splitlines():
                words = shlex.split(line, comments=True)
                if words and not re.match(r"[A-Z]+=", words[0]):
                    _check_command(words[0], words[1:])


def _check_command(command: str, arguments: list[str]) -> None:
    if command == "nested-fad-tf":
        name = arguments[0]
        commands = {command.name: command for command in main.COMMANDS}
        if "--help" not in arguments:
            main._flag_values(commands[name])(arguments)
    elif command.startswith("scripts/"):
        assert (REPOSITORY / command).stat().st_mode & 0o100, f"{command} can't be run"
        source = read(command)
        for option in re.findall(r"--(\w+)", " ".join(arguments)):
            assert option in source, f"{command} knows no --{option}"
    elif command == "pip":
        known = configparser.ConfigParser()
        known.read(REPOSITORY / "setup.cfg", encoding="utf-8")
        for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(arguments)):
            for extra in extras.split(","):
                assert extra in known["options.extras_require"], f"there is no extra {extra}"
    elif command == "python" and arguments[:2] == ["-m", "pytest"]:
        assert (REPOSITORY / arguments[2]).exists()
    else:
        assert command in _READERS_OWN, f"{command} is no command of this project"
