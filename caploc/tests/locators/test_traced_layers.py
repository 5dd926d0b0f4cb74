"""Tracing at the last token alone, against the whole trace of a subject that is all of the prompt before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caploc.examples import Example, tokenize
from caploc.locators.causal_tracing.trace import Tracing
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.traced_layers import LastTokenTracer
from caploc.tests.tiny import tiny_lm


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "opt", "gemma3_text"])
@pytest.mark.parametrize("answer", ["first", "whole"])
def test_it_is_the_last_token_of_the_whole_trace(family: str, answer: str) -> None:
    lm = tiny_lm(family, torch.float64)
    tracing = Tracing("mlp", answer=answer, draws=3, seed=4)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    for text in ("how many?", "ab"):
        example = tokenize(lm, Example(text, text, " 12"))
        subject = range(example.answer_start - 1)
        with Tracer(lm, tracing) as tracer:
            # the tracer restores from the subject on; the last token is behind it
            expected = tracer.one(example, subject).restored[-1]
        with LastTokenTracer(lm, tracing) as last:
            found = last.by_layer(example)
        assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-9, abs=1e-15)
        assert np.ptp(found.numpy()) > 0
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
