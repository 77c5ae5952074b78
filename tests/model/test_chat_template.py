"""A chat template is rendered as transformers does it, or refused before anything starts."""

import json
from pathlib import Path

import pytest

from batchgen.errors import ModelError
from batchgen.model.chat_template import read_chat_template

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_prompt_stands_in_its_template(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    told = read_chat_template(tmp_path, {})("a {{ cat }}")
    assert told == "<|im_start|>user\na {{ cat }}<|im_end|>\n<|im_start|>assistant\n"


def test_a_file_of_its_own_goes_before_the_tokenizers_settings(tmp_path: Path) -> None:
    settings = {"chat_template": "older {{ messages[0].content }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_chat_template(tmp_path, {})("a cat") == "older a cat"
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert "older" not in read_chat_template(tmp_path, {})("a cat")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for", "not a chat template"),
        ("hello", "leaves the prompt out"),
        ("{{ raise_exception('only pictures') }}", "fails: only pictures"),
        ("{{ messages[0].content.__class__.__mro__ }}", "the chat template fails"),
        *(
            (
                f"{{{{ strftime_now('{form}') }}}} {{{{ messages[0].content }}}}",
                "tells the model the date",
            )
            for form in ("%Y", "%B", "%d", "%A", "%H", "%M", "%S", "%j")
        ),
    ],
)
def test_what_makes_no_prompt_or_one_of_the_day_is_refused(
    template: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=message) as refused:
        read_chat_template(tmp_path, {})
    assert "chat_template.jinja" in str(refused.value)


def test_a_template_may_ask_for_the_date_and_not_tell_it(tmp_path: Path) -> None:
    asked = "{% set today = strftime_now('%Y-%m-%d') %}{% set year = today[:4] | int %}"
    (tmp_path / "chat_template.jinja").write_text(asked + CHATML)
    assert "20" not in read_chat_template(tmp_path, {})("a cat")


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no chat template"):
        read_chat_template(tmp_path, {})
