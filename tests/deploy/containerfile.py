# SPDX-License-Identifier: Apache-2.0
"""Containerfiles as stages of instructions, by the documented syntax."""

import re
from dataclasses import dataclass, field

KNOWN = frozenset(
    [
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "RUN",
        "STOPSIGNAL",
        "USER",
        "WORKDIR",
    ]
)


@dataclass
class Stage:
    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def every(self, word: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == word]


@dataclass
class Containerfile:
    arguments: dict[str, str]
    stages: dict[str, Stage]

    def chain(self, name: str) -> list[Stage]:
        """A stage and those it is made from, the first one first."""
        stage = self.stages[name]
        before = self.chain(stage.base) if stage.base in self.stages else []
        return [*before, stage]


def parse(text: str) -> Containerfile:
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word not in KNOWN:
            message = f"no instruction {word}"
            raise ValueError(message)
        if word == "FROM":
            found = re.fullmatch(r"(\S+) AS ([a-z]+)", rest)
            if found is None:
                message = f"a stage without a name: {rest}"
                raise ValueError(message)
            stage = stages[found[2]] = Stage(found[1], found[2])
        elif stage is None:
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            stage.instructions.append((word, rest.strip()))
    return Containerfile(arguments, stages)
