"""Benchmarks that are known by name: where they are, how they are read, how they are measured.

The protocol is the one of the HAPO paper (METHOD 3): temperature 0.6, top_p 1, at most 8,192 new
tokens; avg@32 on the small contests, one sample a problem on the others. Every value can be
overridden, in params.yaml and on the command line, and every value is printed with the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench", "gsm8k"]
"""The names; also the `kind` of a source under `curate.benchmarks`."""


@dataclass(frozen=True)
class Preset:
    """A benchmark and its protocol.

    Args:
        about: its name in print.
        adapter: which column is what (`pipeline.curate.sources.adapters`).
        hub: the dataset that is read where no path is given.
        config, split: of that dataset.
        problems: how many problems the benchmark has; another number is said, not refused.
        k: samples a problem.
        temperature, top_p, max_tokens: how they are drawn.
    """

    about: str
    adapter: str
    hub: str
    config: str | None
    split: str
    problems: int
    k: int
    temperature: float = 0.6
    top_p: float = 1.0
    max_tokens: int = 8192

    def protocol(self) -> dict[str, float | int]:
        """The settings of `evaluate.benchmarks.NAME` that the preset stands for."""
        return {
            "k": self.k,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
        }


PRESETS: dict[PresetName, Preset] = {
    "aime24": Preset("AIME 2024", "aime", "HuggingFaceH4/aime_2024", None, "train", 30, 32),
    "aime25": Preset("AIME 2025", "aime", "math-ai/aime25", None, "test", 30, 32),
    "amc23": Preset("AMC 2023", "amc23", "math-ai/amc23", None, "test", 40, 32),
    "math500": Preset("MATH-500", "math500", "HuggingFaceH4/MATH-500", None, "test", 500, 1),
    "minerva": Preset("Minerva", "minerva", "math-ai/minervamath", None, "test", 272, 1),
    "olympiadbench": Preset(
        "OlympiadBench",
        "olympiadbench",
        "Hothan/OlympiadBench",
        "OE_TO_maths_en_COMP",
        "train",
        675,
        1,
    ),
    "gsm8k": Preset("GSM8K", "gsm8k", "openai/gsm8k", "main", "test", 1319, 1),
}


def find_preset(kind: str) -> Preset | None:
    """The preset of this name, or None for any other kind of source."""
    return next((preset for name, preset in PRESETS.items() if name == kind), None)
