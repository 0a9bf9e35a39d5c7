# SPDX-License-Identifier: Apache-2.0
"""Local tasks of each kind that the lm-evaluation-harness has: YAML and JSONL."""

import json
from pathlib import Path

QUESTIONS = [
    {"question": "Two and two are", "choices": ["four", "five", "forty"], "answer": 0},
    {"question": "The sky is ", "choices": ["green", "blue"], "answer": 1},
    {"question": "", "choices": ["a", "bc"], "answer": 0},
]
BOOKS = [{"text": "It was the best of times. " * n} for n in (1, 4)]
KINDS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "words": """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[answer]}}"
target_delimiter: ""
metric_list:
  - metric: perplexity
  - metric: acc
""",
    "books": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
  - metric: byte_perplexity
""",
    "answers": """
output_type: generate_until
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: "{{choices[answer]}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 8
  do_sample: false
metric_list:
  - metric: exact_match
""",
}


def write_tasks(folder: Path) -> dict[str, Path]:
    """Kind -> its task file. The task of a kind is called my_KIND."""
    paths = {}
    for kind, text in KINDS.items():
        data = folder / f"{kind}.jsonl"
        rows = BOOKS if kind == "books" else QUESTIONS
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths[kind] = folder / f"{kind}.yaml"
        paths[kind].write_text(
            f"task: my_{kind}\n"
            "dataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {folder / 'cache'}}}\n"
            f"test_split: test\n{text}metadata: {{version: 1.0}}\n"
        )
    return paths
