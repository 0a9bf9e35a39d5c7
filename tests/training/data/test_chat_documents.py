# SPDX-License-Identifier: Apache-2.0
"""Conversations as a source: what is learned from, what is not, and what is refused."""

import json
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from flax import nnx
from tokenizers import decoders, models, pre_tokenizers

from eval.perplexity import score_documents
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import encode_answers, encode_chat, use_template
from recurrentgemma.text.tokenizer import HuggingFaceTokenizer, Tokenizer
from tests.drawn import untrained
from tests.recurrentgemma.models import call
from tests.recurrentgemma.text.seams import KINDS, merges
from training.configs import TrainConfig
from training.data.batches import Batches, pack
from training.data.chat_documents import ChatDocuments, count_examples
from training.data.config import DataConfig, held_out, open_mixture
from training.data.data_cli import describe
from training.data.document import Document
from training.data.documents import InMemory
from training.data.sources import open_data_source, open_text_source
from training.data.sources.chat_forms import pair
from training.data.sources.chat_lines import ChatLines
from training.data.sources.spec import parse_spec

BYTES = ByteTokenizer()
BOS, EOS, START, END = 258, 257, 259, 260
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello<end_of_turn>"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]
LINES = [
    {"messages": pair("Capital of France?", "Paris")},
    {"messages": pair("Of Italy?", "Rome"), "id": 7},
    {"messages": TALK},
    {"messages": [*TALK, {"role": "user", "content": "never answered"}]},
]


def without_turns() -> HuggingFaceTokenizer:
    vocabulary = {"<s>": 0, "</s>": 1} | {
        c: i + 2 for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())
    }
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return HuggingFaceTokenizer(tokenizer.to_str(), {"bos_token": "<s>", "eos_token": "</s>"})


def write(path: Path, *lines: object) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return f"chat:{path}"


def documents(spec: str, tokenizer: Tokenizer = BYTES) -> ChatDocuments:
    return ChatDocuments(ChatLines(parse_spec(spec)), tokenizer)


def mask(document: Document) -> np.ndarray:
    assert document.learned is not None
    return document.learned


def learned(document: Document) -> list[str]:
    """The runs of targets that are learned from, as text."""
    runs, text = [], []
    pairs = [*zip(document.ids.tolist(), mask(document), strict=True), (-1, False)]
    for token, is_learned in pairs:
        if is_learned:
            text.append(token)
        elif text:
            runs.append(BYTES.decode(text))
            text = []
    return runs


def test_a_prompt_and_its_response(tmp_path: Path):
    document = documents(write(tmp_path / "a.jsonl", *LINES)).read(0)
    prompt = encode_chat(BYTES, [{"role": "user", "content": "Capital of France?"}])
    assert document.ids.tolist() == [*prompt, *b"Paris", END]
    assert mask(document).tolist() == [False] * len(prompt) + [True] * 6
    assert document.ids.dtype == np.int32


def test_every_answer_of_a_conversation(tmp_path: Path):
    chats = documents(write(tmp_path / "a.jsonl", *LINES))
    assert learned(chats.read(2)) == ["Hi<end_of_turn>", "See you<end_of_turn>"]
    plain = chats.read(2).ids.tolist()
    before = encode_chat(BYTES, TALK[:4])  # what the model is given when it is asked
    assert plain == [*before, *b"See you", END]
    assert plain.count(END) == 4  # two of each side: the user's own words forge none
    assert chats.read(3).ids.tolist() == plain  # what follows the last answer is not read
    part, start = chats.read(2, 60, 90), chats.read(2, 0, 90)
    np.testing.assert_array_equal(part.ids, start.ids[60:])
    np.testing.assert_array_equal(mask(part), mask(start)[60:])
    assert set(mask(part).tolist()) == {False, True}


def test_the_answers_tokens_are_those_of_the_whole_chat():
    ids, answers = encode_answers(BYTES, TALK)
    whole = encode_chat(BYTES, TALK)
    assert whole[: len(ids)] == ids
    assert sum(answers) == len("Hi") + 1 + len("See you") + 1


def test_fields_by_name_and_plain_text(tmp_path: Path):
    line = {"q": {"text": "1 + 1 ="}, "a": " 2", "messages": []}
    spec = write(tmp_path / "a.jsonl", line) + "?prompt=q.text&response=a&template=none"
    document = documents(spec).read(0)
    assert document.ids.tolist() == [BOS, *b"1 + 1 = 2", EOS]
    assert document.ids[mask(document)].tolist() == [*b" 2", EOS]
    other = without_turns()
    assert other.decode(documents(spec, other).read(0).ids.tolist()) == "1 + 1 = 2"


PROMPTS = {
    "plain": "Who? ",
    "chatml": "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
    "alpaca": "### Instruction:\nWho?\n\n### Response:\n",
    "llama": "[INST] Who? [/INST]",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["gemma", *PROMPTS])
def test_training_sees_the_ids_of_inference(tmp_path: Path, kind: str, template: str):
    """Also where a prompt is written in another template, by hand."""
    tokenizer = KINDS[kind]()
    answers = [" Paris", "Paris", "\n\nParis"]
    prompt = PROMPTS.get(template, "Who?")
    spec = write(tmp_path / "a.jsonl", *({"prompt": prompt, "response": a} for a in answers))
    chats = documents(spec + ("" if template == "gemma" else "?template=none"), tokenizer)
    asked, end = tokenizer.encode(prompt), tokenizer.eos_id
    if template == "gemma":
        asked = encode_chat(tokenizer, [{"role": "user", "content": prompt}])
        prompt, end = "model\n", tokenizer.control_tokens["<end_of_turn>"]
    for number, answer in enumerate(answers):
        document = chats.read(number)
        assert document.ids[: len(asked)].tolist() == asked
        assert mask(document).tolist() == [i >= len(asked) for i in range(len(document.ids))]
        *answered, last = document.ids[len(asked) :].tolist()
        assert last == end
        if not merges(tokenizer, prompt, answer):
            known = tokenizer.encode(prompt)
            assert answered == tokenizer.encode(prompt + answer)[len(known) :]


@pytest.mark.parametrize("carry", [False, True])
def test_batches_weigh_the_answers_only(tmp_path: Path, carry: bool):
    config = DataConfig(
        sources=(write(tmp_path / "a.jsonl", *LINES),),
        long_documents="carry" if carry else "cut",
    )
    mixture = open_mixture(config, BYTES, vocab_size=261)
    batches = Batches(
        mixture, batch_size=2, row_length=96, seed=0, long_documents=config.long_documents
    )
    rows = [next(batches) for _ in range(40)]
    batches.close()
    seen, tokens, weights, positions = (
        np.concatenate([np.asarray(getattr(row, name)) for row in rows], 1)
        for name in ("targets_BT", "tokens_BT", "weights_BT", "positions_BT")
    )
    assert min(seen.min(), tokens.min()) >= 0
    whole = {
        tuple(zip(d.ids[:-1], d.ids[1:], mask(d)[1:], strict=True))
        for d in map(documents(config.sources[0]).read, range(4))
    }
    cuts = np.flatnonzero(positions[0] == 0)
    pieces = {
        tuple(zip(tokens[0, a:b], seen[0, a:b], weights[0, a:b] == 1, strict=True))
        for a, b in pairwise(cuts)
    }
    assert whole <= pieces
    if carry:  # each conversation whole and alone; one cut would be in pieces that are none of them
        assert pieces == whole


def test_rows_of_known_lengths_weigh_the_same():
    masked = Document(np.arange(5, 10, dtype=np.int32), np.array([True, False, False, True, True]))
    rows = pack([masked, np.array([1, 2, 3])], 8)
    assert rows.tokens_RT[0, :6].tolist() in ([5, 6, 7, 8, 1, 2], [1, 2, 5, 6, 7, 8])
    assert sorted(rows.weights_RT[0, :6].tolist()) == [0, 0, 1, 1, 1, 1]
    assert rows.weights_RT.sum() == 4
    in_memory = InMemory([masked], text_bytes=6)
    assert in_memory.bytes_per_token() == 3.0
    assert in_memory.fingerprint != InMemory([masked.ids]).fingerprint


def test_bytes_per_token_is_of_the_answers(tmp_path: Path):
    chats = documents(write(tmp_path / "a.jsonl", *LINES[:2]))
    assert chats.bytes_per_token() == pytest.approx(9 / 11)  # Paris, Rome; and two ends of turns
    assert chats.lengths is None
    assert len(chats) == 2


def test_what_there_is_is_counted(tmp_path: Path):
    examples = count_examples([documents(write(tmp_path / "a.jsonl", *LINES[:2]))])
    first, second = (len(documents(f"chat:{tmp_path}/a.jsonl").read(n).ids) - 1 for n in (0, 1))
    assert examples.lengths.tolist() == [first + 1, second + 1]
    assert (examples.tokens, examples.learned.tolist(), examples.longest) == (
        first + second,
        [6, 5],
        first,
    )
    assert "2 are longer than a row of 28 tokens, 1 of them before" in examples.describe(28)
    assert "longer" not in examples.describe(99)
    assert f"the longest, {tmp_path}/a.jsonl:1, has {first}" in examples.describe(99)
    both = count_examples([documents(f"chat:{tmp_path}/a.jsonl")] * 2)
    assert both.lengths.tolist() == [*examples.lengths] * 2


def test_the_loss_is_the_mean_over_answers(small: TrainConfig, tmp_path: Path):
    """And what stands as a prompt's target has no part in it, whatever it is."""
    document = documents(write(tmp_path / "a.jsonl", LINES[0])).read(0)
    ids = document.ids
    batch = Batch(*map(jnp.asarray, pack([document], 64)))
    model = untrained(small.model)
    logits_BTV, _ = call(model, batch.tokens_BT, positions=batch.positions_BT)
    log_p = jax.nn.log_softmax(logits_BTV[0])
    answer = range(len(ids) - 7, len(ids) - 1)  # targets: Paris and the end of the turn
    by_hand = -np.mean([float(log_p[t, int(ids[t + 1])]) for t in answer])
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    def learned(batch: Batch):
        def loss(params):
            return next_token_loss(nnx.merge(graphdef, params), batch)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, metrics), gradient = learned(batch)
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)
    assert float(metrics["tokens"]) == 6

    others = (batch.targets_BT + 1) % 261
    changed = batch._replace(targets_BT=jnp.where(batch.weights_BT == 0, others, batch.targets_BT))
    jax.tree.map(np.testing.assert_array_equal, learned(changed)[1], gradient)


def test_held_out_conversations_are_scored_by_their_answers(small: TrainConfig, tmp_path: Path):
    config = DataConfig(eval_sources=(write(tmp_path / "a.jsonl", *LINES[:3]),))
    scored = list(held_out(config, BYTES, vocab_size=261))
    assert [d.bytes for d in scored] == [5, 4, 9]
    assert [BYTES.decode(d.ids[mask(d)].tolist()) for d in (one.document for one in scored)] == [
        "Paris",
        "Rome",
        "HiSee you",
    ]
    model = untrained(small.model)
    documents = [one.document for one in scored]
    score = score_documents(model, documents, sum(one.bytes for one in scored))
    assert (score.tokens, score.bytes) == (18, 18)
    nats = 0.0
    for document in documents:
        tokens = document.ids
        log_p = jax.nn.log_softmax(call(model, tokens[None, :-1])[0][0])
        chosen = np.asarray(log_p)[np.arange(len(tokens) - 1), tokens[1:]]
        nats -= chosen[mask(document)[1:]].sum()
    assert score.nats == pytest.approx(nats, rel=1e-5)


def test_looked_at_from_the_shell(tmp_path: Path):
    facts = describe(write(tmp_path / "a.jsonl", *LINES[:2]), "bytes")
    assert (facts["documents"], facts["learned_tokens"]) == (2, 11)
    assert facts["example"] == "user: Capital of France?\n\nassistant: Paris"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"messages": [{"role": "user", "content": "a"}]},
            r"a.jsonl:1: no answer to learn from \(user\)",
        ),
        ({"messages": []}, r"a.jsonl:1: no answer to learn from \(no messages\)"),
        ({"messages": [{"role": "critic", "content": "a"}]}, "a.jsonl:1: message 0 has the role"),
        (
            {"messages": [{"role": "tool", "content": "a"}, *TALK[1:]]},
            "a.jsonl:1: message 0 has the role 'tool': expected 'system', 'user' or 'assistant'",
        ),
    ],
)
def test_talks_that_teach_nothing(tmp_path: Path, line: object, message: str):
    with pytest.raises(ValueError, match=message):
        documents(write(tmp_path / "a.jsonl", line)).read(0)


@pytest.mark.parametrize(
    "roles", [("assistant", "user"), ("system", "user", "assistant"), ("assistant",)]
)
def test_plain_text_is_of_one_prompt_and_one_response(tmp_path: Path, roles: tuple[str, ...]):
    line = {"messages": [{"role": role, "content": "something"} for role in roles]}
    chats = documents(write(tmp_path / "a.jsonl", line) + "?template=none")
    message = rf"a.jsonl:1: messages of {', '.join(roles)}: template=none knows one prompt and one"
    with pytest.raises(ValueError, match=message):
        chats.read(0)


def test_sources_that_cannot_be(tmp_path: Path):
    spec = write(tmp_path / "a.jsonl", *LINES)
    with pytest.raises(ValueError, match=r"no <start_of_turn> .* with \?template=none"):
        documents(spec, without_turns())
    with pytest.raises(ValueError, match="template=llama: expected auto or gemma or none"):
        open_data_source(f"{spec}?template=llama")
    with pytest.raises(ValueError, match="cannot be tokenised ahead"):
        open_text_source(spec)
    with pytest.raises(
        ValueError, match=r"messages of system, user, .*: template=none knows one prompt"
    ):
        documents(f"{spec}?template=none").read(2)
    assert documents(spec).fingerprint != documents(f"{spec}?template=none").fingerprint


CHATML = "{% for m in messages %}<start_of_turn>{{ m.role }} {{ m.content | trim }}<end_of_turn>\n"
CHATML += "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant {% endif %}"


def test_the_tokenizers_own_template(tmp_path: Path):
    """What asks for an answer is what the model is given when it is asked; ?template=gemma is
    Gemma's all the same, and other documents."""
    tokenizer = ByteTokenizer()
    use_template(tokenizer, CHATML)
    spec = write(tmp_path / "a.jsonl", *LINES)
    conversations = documents(spec, tokenizer)
    document = conversations.read(2)
    assert learned(document) == ["Hi<end_of_turn>", "See you<end_of_turn>"]
    asked = encode_chat(tokenizer, TALK[:4])
    assert document.ids[: len(asked)].tolist() == asked
    gemma = documents(f"{spec}?template=gemma", tokenizer)
    assert gemma.read(2).ids.tolist() == documents(spec).read(2).ids.tolist()
    assert gemma.fingerprint == documents(spec).fingerprint != conversations.fingerprint
    assert (conversations.format_name[:9], gemma.format_name) == ("template:", "gemma")


def test_the_last_answer_only(tmp_path: Path):
    spec = write(tmp_path / "a.jsonl", *LINES)
    last = documents(f"{spec}?answers=last")
    assert learned(last.read(2)) == ["See you<end_of_turn>"]
    assert last.read(2).ids.tolist() == documents(spec).read(2).ids.tolist()
    assert last.answer_bytes(2) == len("See you")
    assert last.fingerprint != documents(spec).fingerprint
    with pytest.raises(ValueError, match="answers=first: expected all or last"):
        documents(f"{spec}?answers=first")


def test_tools_are_written_by_the_template(tmp_path: Path):
    line = {"messages": TALK[1:3], "tools": [{"name": "f"}]}
    spec = write(tmp_path / "a.jsonl", line)
    with pytest.raises(ValueError, match=r"a.jsonl:1: tools: Gemma's chat format has none"):
        documents(spec).read(0)
    tokenizer = ByteTokenizer()
    use_template(tokenizer, "{{ tools | tojson }}" + CHATML)
    text = BYTES.decode(documents(spec, tokenizer).read(0).ids.tolist())
    assert text.startswith('[{"name": "f"}]<start_of_turn>user Hello')
