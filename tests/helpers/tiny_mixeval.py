"""A MixEval of ten rows and seven items, in the benchmark's own format."""

import json
from pathlib import Path


def free(prompt, *target, benchmark="TriviaQA", context=None):
    return {
        "problem_type": "free-form",
        "context": context,
        "prompt": prompt,
        "target": list(target),
        "benchmark_name": benchmark,
    }


def choice(prompt, options, right, benchmark="MMLU"):
    return {
        "problem_type": "multiple-choice",
        "context": None,
        "prompt": prompt,
        "options": options,
        "target": [right],
        "benchmark_name": benchmark,
    }


FREE = {
    "0": free("Who painted the Night Watch?", "Rembrandt", "Rembrandt van Rijn"),
    "1": free("Who painted the Night Watch?", "Rembrandt", "Rembrandt van Rijn"),
    "2": free("How many goals fell?", "3", benchmark="DROP", context="Two fell, then one more."),
    "3": free("What is 6 times 7?", "42", benchmark="GSM8k", context="none"),
    "4": free("Fill in the gap.", "x", benchmark="AGIEval"),
}
CHOICE = {
    "0": choice("Which of these is red?", ["grass", "blood", "milk"], 1),
    "1": choice("Which of these is red?", ["grass", "blood", "milk"], 1),
    "2": choice("Is water wet?", ["yes", "no"], 0, benchmark="BoolQ"),
    "3": choice("Which is even?", ["(A)3", "(B)4"], 1, benchmark="AGIEval"),
    "4": choice("Which flies?", ["a stone", "a bird", "a wall"], 1),
}


def write_data(folder: Path, version: str = "2024-06-01") -> Path:
    """The benchmark's folder."""
    inner = folder / f"mixeval-{version}" / "mixeval-hard"
    inner.mkdir(parents=True)
    (inner / "free-form.json").write_text(json.dumps(FREE))
    (inner / "multiple-choice.json").write_text(json.dumps(CHOICE))
    return folder


def judged_rows(scores, letters, answers=None):
    """Recorded rows of both halves, with a judge's replies."""
    answers = answers or {}
    rows = [
        FREE[id]
        | {"id": id, "response": answers.get(FREE[id]["prompt"], f"answer {id}")}
        | {"judge_response": f"A reason. [[{score}]]", "judge_score": score}
        for id, score in zip(FREE, scores, strict=True)
    ]
    rows += [
        CHOICE[id]
        | {"id": id, "response": letter}
        | {"judge_response": f"A reason. [[{letter}]]", "judge_option": letter}
        for id, letter in zip(CHOICE, letters, strict=True)
    ]
    return rows
