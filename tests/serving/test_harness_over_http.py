# SPDX-License-Identifier: Apache-2.0
"""The lm-evaluation-harness gets the same numbers over HTTP as through our class."""

from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.openai_completions import LocalCompletionsAPI

from eval.tasks.harness import HarnessModel
from eval.tasks.harness_tasks import metrics, named_tasks, run_tasks
from serving.http.server import create_app
from tests.eval.tasks.task_files import write_tasks

CLIENT: Any = LocalCompletionsAPI


class OverHTTP(CLIENT):
    """The harness's client, which knows tokenizers of transformers only, with ours.

    add_bos_token: as of the client, before every text. It puts a prefix token before a document of
    loglikelihood_rolling in any case, so that such a task is asked without.
    """

    def __init__(self, url: str, lm, *, add_bos_token: bool):
        super().__init__(
            base_url=f"{url}/v1/completions",
            model="griffin",
            tokenizer_backend=None,
            batch_size=2,
            max_retries=1,
            add_bos_token=add_bos_token,
        )
        self.tokenizer, self.tokenized_requests = lm.tokenizer, True

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        if not isinstance(string, str):
            return [self.tok_encode(one) for one in string]
        bos = self.add_bos_token if add_special_tokens is None else add_special_tokens
        return self.tokenizer.encode(string, bos=bos)

    @property
    def eot_token_id(self):
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self):
        return self.tokenizer.bos_id

    eos_string = None


def test_the_same_numbers(griffin, running_thread, running_server, tmp_path: Path):
    lm = griffin.lm
    manager, names = named_tasks([str(path) for path in write_tasks(tmp_path).values()])
    whole = [name for name in names if "books" in name]
    others = [name for name in names if name not in whole]
    ours = metrics(run_tasks(HarnessModel(lm), manager, [*others, *whole]))
    with (
        running_thread(lambda: griffin, 64) as thread,
        running_server(create_app(thread, model_name="griffin")) as url,
    ):
        theirs = [
            row
            for asked, bos in ((others, True), (whole, False))
            for row in metrics(run_tasks(OverHTTP(url, lm, add_bos_token=bos), manager, asked))
        ]
    assert len(ours) == len(theirs) == 7
    for one, other in zip(ours, theirs, strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], rel=1e-5)
