"""How surprised a policy is by traces of several styles, before any training.

    python bench/surprise.py [--root .] [--policy artifacts/policy/base] [--count 256]

Run it in a project of the chains task after `curate` and `base`. It tells whether a measure
separates, in the first round, a teacher that can be learnt from one that cannot (docs/methods.md,
"Beyond the paper"). Styles: lines of one step (what the policy writes), of two, of three, no line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import mannwhitneyu
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.policy import load_policy, response_logprobs
from hapo_core.surprise import surprise
from hapo_core.tasks.chains import Chain, distinct_chains
from pipeline.artifacts.places import DATA
from pipeline.artifacts.tables import PROBLEMS, read_table
from pipeline.config import ChainsSource, load_params

P_MIN = 0.001
STRIDES = (1, 2, 3, 0)
Array = npt.NDArray[np.float64]


def main() -> None:
    """Print a table: rows are styles, columns the measures and how well they tell a style apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--policy", type=Path, default=Path("artifacts/policy/base"))
    parser.add_argument("--count", type=int, default=256)
    args = parser.parse_args()
    params = load_params(args.root / "params.yaml")
    name, source = next(
        (n, s) for n, s in params.curate.sources.items() if isinstance(s, ChainsSource)
    )
    chains = distinct_chains(
        source.count, params.seed, f"train/{name}", source.min_steps, source.max_steps
    )
    table = read_table(args.root / DATA / "problems.parquet", PROBLEMS).to_pylist()
    prompts = {row["problem"]: tuple(row["prompt_ids"]) for row in table}
    chosen = [chain for chain in chains if chain.problem in prompts][: args.count]
    model, tokenizer = load_policy(args.root / args.policy / "model", torch.float32)
    found = {stride: measured(model, tokenizer, chosen, prompts, stride) for stride in STRIDES}
    clean = found[1]
    print("| lines of | impossible tokens | told apart | trimmed nats a token | told apart |")
    print("|---|---|---|---|---|")
    for stride, values in found.items():
        name = {0: "no line", 1: "one step"}.get(stride, f"{stride} steps")
        cells = []
        for column, form in ((0, "{:.1%}"), (1, "{:.3f}")):
            mean = form.format(values[:, column].mean())
            auc = apart(clean[:, column], values[:, column])
            cells += [mean, "" if stride == 1 else f"{auc:.3f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


def measured(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chains: list[Chain],
    prompts: dict[str, tuple[int, ...]],
    stride: int,
) -> Array:
    """(impossible share, trimmed nats) of every chain's trace in a style, [chains, 2]."""
    rows = []
    for chain in chains:
        text = chain.solution() if stride == 1 else chain.leaping_solution(stride)
        ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs, _ = response_logprobs(model, [(prompts[chain.problem], ids)])
        one = surprise(logprobs.numpy(), P_MIN)
        rows.append((one.impossible, one.nll))
    return np.array(rows)


def apart(clean: Array, other: Array) -> float:
    """Chance that a trace of the other style surprises more than a clean one; .5: no difference."""
    return float(mannwhitneyu(other, clean).statistic / (len(clean) * len(other)))


if __name__ == "__main__":
    main()
