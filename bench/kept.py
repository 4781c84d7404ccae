"""What a policy makes of the chat answers that its base gave: an ability that no stage trains.

    python bench/kept.py --base artifacts/policy/base NAME=FOLDER ...

The base answers the questions below, three times each (temperature .7, at most 64 tokens, drawn by
counter). Each policy is then asked for the log-probs of these very answers at temperature 1: mean
nats a token, and the standard error over questions. One that forgot how to talk needs more nats.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from hapo_core.policy import load_policy, micro_batches, response_logprobs
from hapo_core.rollout.protocol import Prompt, Rollout, Sampling
from hapo_core.rollout.transformers_engine import HFEngine

QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Explain in two sentences why the sky is blue.",
    "Give me three tips for sleeping better.",
    "Write a short greeting for a birthday card.",
    "What do plants need to grow?",
    "How do I boil an egg?",
    "Name four animals that live in the sea.",
    "What is the difference between a lake and a river?",
    "Describe a rainy day in one paragraph.",
    "Why do people wear seat belts?",
    "Suggest a name for a small dog and say why.",
    "What is a noun? Give two examples.",
    "How does a bicycle stay upright?",
    "Tell me a fact about the moon.",
    "What should I pack for a day at the beach?",
    "Write one sentence in which a cat meets a bird.",
    "Who wrote Romeo and Juliet?",
    "What is the purpose of a library?",
    "How can I save water at home?",
    "What happens when ice melts?",
    "Recommend a simple breakfast.",
    "What does a teacher do?",
    "Why are trees important for a city?",
    "Say something kind to a friend who lost a game.",
)


def main() -> None:
    """Print a row for the base and one for each named policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=Path("artifacts/policy/base"))
    parser.add_argument("policies", nargs="*", metavar="NAME=FOLDER")
    args = parser.parse_args()
    named = dict(text.split("=", 1) for text in args.policies)
    torch.set_num_threads(1)
    prompts, answers = answered(args.base / "model")
    print(f"{len(answers)} answers of the base, {sum(a.length for a in answers)} tokens\n")
    print("| policy | nats a token | standard error |\n|---|---|---|")
    for name, folder in {"base": str(args.base), **named}.items():
        values = nats(Path(folder) / "model", prompts, answers)
        print(f"| {name} | {values.mean():.3f} | {values.std(ddof=1) / len(values) ** 0.5:.3f} |")


def answered(folder: Path) -> tuple[dict[str, Prompt], list[Rollout]]:
    """The questions as prompts, by id, and the answers of the policy in this folder."""
    model, tokenizer = load_policy(folder, torch.float32)
    prompts = list[Prompt]()
    for question in QUESTIONS:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        prompts.append(Prompt(question, tuple(ids)))
    sampling = Sampling(n=3, temperature=0.7, top_p=1.0, max_tokens=64)
    answers = list(HFEngine(model, tokenizer, 72).generate(prompts, sampling, 0, 0))
    return {prompt.prompt_id: prompt for prompt in prompts}, answers


@torch.no_grad()
def nats(folder: Path, prompts: dict[str, Prompt], answers: list[Rollout]) -> np.ndarray:
    """Mean surprise (nats a token) of each question's answers: float64 [questions]."""
    model, _ = load_policy(folder, torch.float32)
    pairs = [(prompts[a.prompt_id].token_ids, a.token_ids) for a in answers]
    total = dict.fromkeys(prompts, 0.0)
    count = dict.fromkeys(prompts, 0)
    for part in micro_batches([len(p) + len(r) for p, r in pairs], 2048):
        logp, _ = response_logprobs(model, [pairs[i] for i in part])
        rows = logp.double().split([answers[i].length for i in part])
        for i, row in zip(part, rows, strict=True):
            total[answers[i].prompt_id] -= float(row.sum())
            count[answers[i].prompt_id] += len(row)
    return np.array([total[name] / count[name] for name in prompts])


if __name__ == "__main__":
    main()
