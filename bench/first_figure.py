"""Learning and the teacher's leaving of one finished run, drawn by the report's own code.

    python bench/first_figure.py PROJECT OUT

Writes success.svg and injection.svg of the project's report into OUT, with their numbers as csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.artifacts import atomic_write_text
from pipeline.config import load_params
from pipeline.report.data import collect
from pipeline.report.figures import injection, success
from pipeline.report.page import figure_files


def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path, help="folder of a project whose run is finished")
    parser.add_argument("out", type=Path, help="where the drawings go")
    options = parser.parse_args()
    data = collect(load_params(options.project / "params.yaml"), options.project)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in figure_files([success(data), injection(data)]).items():
        atomic_write_text(options.out / name, text)
        print(options.out / name)


if __name__ == "__main__":
    main()
