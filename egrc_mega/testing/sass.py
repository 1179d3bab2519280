"""What NVIDIA's machine code does in a loop, by the disassembler that Triton brings: what a CPU can count of speed."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

LABEL = re.compile(r"^(\.L_\w+):")
INSTRUCTION = re.compile(r"^/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
BRANCH = re.compile(r"\bBRA\b.*`\((\.L_\w+)\)")
GLOBAL_READ = re.compile(r"\bLDG(STS)?((?:\.\w+)*)")
WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
"""Suffix of a read -> bytes; four without one."""


@dataclass(frozen=True, slots=True)
class Loop:
    """One round of it, of one thread."""

    instructions: int
    bytes_read: int
    """From global memory."""
    bytes_ahead: int
    """Those of them that go to shared memory for a later round, while this one is computed."""


def disassembled(cubin: bytes) -> str:
    """The machine code of a kernel as text."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def num_instructions(text: str) -> int:
    """Of the whole kernel, each counted once."""
    return sum(bool(INSTRUCTION.match(line.strip())) for line in text.splitlines())


def heaviest_loop(text: str) -> Loop | None:
    """The innermost loop that reads most from global memory; None: no loop reads any."""
    loops = [counted(body) for body in loop_bodies(text)]
    return max(
        (loop for loop in loops if loop.bytes_read),
        key=lambda loop: (loop.bytes_read, -loop.instructions),
        default=None,
    )


def loop_bodies(text: str) -> Iterator[list[str]]:
    """The instructions from each target of a branch back to the branch, where no other such loop is inside."""
    code: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in map(str.strip, text.splitlines()):
        if label := LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := INSTRUCTION.match(line):
            code.append(found[2])
            back = BRANCH.search(found[2])
            # an endless branch to itself pads the end of a kernel
            if back and back[1] in labels and labels[back[1]] < len(code) - 1:
                loops.append((labels[back[1]], len(code)))
    for first, end in loops:
        if not any(first <= a and b <= end and (a, b) != (first, end) for a, b in loops):
            yield code[first:end]


def counted(body: list[str]) -> Loop:
    """What these instructions do."""
    reads = [match for line in body if (match := GLOBAL_READ.search(line))]
    ahead = sum(_width(match[2]) for match in reads if match[1])
    return Loop(len(body), sum(_width(match[2]) for match in reads), ahead)


def _width(suffixes: str) -> int:
    return next((WIDTHS[part] for part in suffixes.split(".") if part in WIDTHS), 4)
