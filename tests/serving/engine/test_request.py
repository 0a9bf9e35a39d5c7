"""Scores from the device's arrays."""

import numpy as np

from serving.engine.request import TokenScore, token_scores


def test_there_may_be_more_on_the_device_than_tokens():
    logp_T = np.array([-1.0, -2.0, -9.0])
    top_logp_TN = np.array([[-0.5, -0.75], [-0.25, -3.0], [0.0, 0.0]])
    top_tokens_TN = np.array([[7, 8], [9, 7], [0, 0]])
    assert token_scores(np.array([8, 5]), logp_T, top_logp_TN, top_tokens_TN) == [
        TokenScore(token_id=8, logprob=-1.0, top=((7, -0.5), (8, -0.75))),
        TokenScore(token_id=5, logprob=-2.0, top=((9, -0.25), (7, -3.0))),
    ]
