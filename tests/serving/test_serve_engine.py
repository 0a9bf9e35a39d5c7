"""What is said of a checkpoint before it is served; that it is served: test_serve_cli.py."""

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.tokenizer_files import TEMPLATE
from serving.serve_engine import check_chats


def test_a_mistake_in_the_checkpoints_own_template_is_a_warning(capsys):
    """Not for a checkpoint that knows no chats, nor for what a template refuses."""
    tokenizer = ByteTokenizer()
    for template in ("{{ raise_exception('first a system message') }}", "a\n{% if %}"):
        tokenizer.beside = {TEMPLATE: template.encode()}
        check_chats(tokenizer, "runs/x")
        tokenizer = ByteTokenizer()
    warning = "warning: runs/x: chat_template.jinja, line 2: the chat template has a syntax error"
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(warning)
    assert "chats are refused" in line
    tokenizer.control_tokens = {}
    check_chats(tokenizer, "runs/x")
    assert capsys.readouterr().out == ""
