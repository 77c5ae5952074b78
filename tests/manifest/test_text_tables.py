"""Text tables as people have them: read, or refused by file, line or row."""

import gzip
import json
import time
from pathlib import Path

import pytest

from tests.manifest.validation import Parquet, Write, all_pictures, refusal, validate


@pytest.mark.parametrize(
    ("name", "text", "described"),
    [
        ("p.csv", "prompt,seed\na; b,7\n", "CSV separated by commas, UTF-8"),
        ("p.csv", "prompt;seed\na; b;7\n".replace("a; b", '"a; b"'), "CSV separated by semicolons"),
        ("p.csv", '"prompt";"seed"\n"a; b";"7"\n', "CSV separated by semicolons, UTF-8"),
        ("p.csv", "prompt|seed\na; b|7\n", "CSV separated by vertical bars, UTF-8"),
        ("p.csv", "prompt\tseed\na; b\t7\n", "CSV separated by tabs, UTF-8"),
        ("p.tsv", "prompt\tseed\na; b\t7\n", "CSV separated by tabs, UTF-8"),
        ("p.tsv", "prompt,seed\na; b,7\n", "CSV separated by commas, UTF-8"),
        ("p.csv", "prompt,seed\r\na; b,7\r\n", "CSV separated by commas, UTF-8"),
        ("p.csv", "prompt,seed\ra; b,7\r", "CSV separated by commas, UTF-8"),
        ("p.csv", "\ufeffprompt;seed\na; b;7\n".replace("a; b", '"a; b"'), "CSV separated by"),
    ],
)
def test_the_header_says_what_separates_fields(
    write: Write, name: str, text: str, described: str
) -> None:
    file = write(name, text)
    assert validate(file).described.startswith(described)
    (made,) = all_pictures(file)
    assert (made.prompt, made.seed) == ("a; b", 7)


def test_a_tsv_of_prompts_alone_may_hold_commas(write: Write) -> None:
    (made,) = all_pictures(write("p.tsv", "prompt\na cat, a dog\n"))
    assert made.prompt == "a cat, a dog"


CONTENT = {
    "p.csv": "prompt,seed\na ü cat,7\n",
    "p.tsv": "prompt\tseed\na ü cat\t7\n",
    "p.jsonl": '{"prompt": "a ü cat", "seed": 7}\n',
    "p.txt": "a ü cat\n",
}


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
def test_every_encoding_with_a_mark_is_read_plain_or_compressed(
    write: Write, name: str, encoding: str, compressed: bool
) -> None:
    raw = CONTENT[name].encode(encoding)
    file = write(f"{name}.gz", gzip.compress(raw)) if compressed else write(name, raw)
    (made,) = all_pictures(file)
    assert made.prompt == "a ü cat"
    assert made.seed == 7 or name == "p.txt"


def test_a_text_file_has_a_prompt_a_line(write: Write) -> None:
    made = all_pictures(write("p.txt", '\ufeff  a cat \r\n\n \t\n"quoted", with; all\nlast'))
    assert [one.prompt for one in made] == ["a cat", '"quoted", with; all', "last"]


@pytest.mark.parametrize("first", ["prompt", "Prompt\tseed", '"prompt";"seed"', "id,prompt"])
def test_a_text_file_that_begins_like_a_table_is_refused(write: Write, first: str) -> None:
    message = refusal(write("p.txt", f"{first}\na cat\n"))
    assert "p.txt: the first line is the header of a table" in message
    assert ".csv" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('prompt\na\n"b\nc\nd\n', "line 3: a quote opens here and is never closed: '\"b'"),
        ('x,prompt\n1,a\n2,"b\n3,c\n', "line 3: a quote opens here and is never closed: '\"b'"),
        ('prompt,x\n"a\nb","c\nd\n', "line 3: a quote opens here and is never closed: '\"c'"),
        (
            'x,prompt\n1,a\n2,"b\n3,"c"\n4,d\n',
            "line 3: a quote opens here and is closed in line 4, where 'c\"' follows",
        ),
        (
            'prompt\n"a "big" cat"\n',
            "line 2: a quote opens here and is closed in the same line, where 'big\" cat\"'",
        ),
        ('"prompt\na\n', "line 1: a quote opens here and is never closed"),
    ],
)
def test_a_quote_that_is_not_closed_is_an_error_that_names_its_line(
    write: Write, text: str, message: str
) -> None:
    file = write("p.csv", text)
    assert refusal(file).startswith(f"{file}, {message}")


def test_quoted_texts_may_hold_line_breaks_separators_and_doubled_quotes(write: Write) -> None:
    made = all_pictures(write("p.csv", 'prompt\n"a\nb, ""c"""\nd "e" f\n'))
    assert [one.prompt for one in made] == ['a\nb, "c"', 'd "e" f']


@pytest.mark.parametrize(
    ("field", "seed"),
    [("7", 7), ("7.0", 7), ("+7", 7), (" 7 ", 7), ("7e0", 7), ("9223372036854775807", 2**63 - 1)],
)
def test_whole_numbers_in_csv_are_integers_however_they_are_written(
    write: Write, field: str, seed: int
) -> None:
    (made,) = all_pictures(write("p.csv", f"prompt,seed\na,{field}\n"))
    assert made.seed == seed


@pytest.mark.parametrize("field", ["", " ", "NaN", "nan"])
def test_nothing_and_nan_in_csv_are_null(write: Write, field: str) -> None:
    file = write("p.csv", f"prompt,seed,guidance,steps\na,{field},{field},4\n")
    (made,) = all_pictures(file)
    assert (made.guidance, made.steps) == (3.5, 4)


@pytest.mark.parametrize(
    "field",
    ["0x10", "7.5", "1_0", "٣", "inf", "9007199254740993.0", "1e18", "1e999999999", "9" * 5000],
)
def test_what_is_no_whole_number_in_csv_is_refused_with_the_row(write: Write, field: str) -> None:
    file = write("p.csv", f"prompt,seed\na,1\nb,{field}\n")
    assert refusal(file).startswith(f"row 1 of {file}, column seed: '{field[:50]}")


@pytest.mark.parametrize("field", ["0x1p3", "inf", "1e400", '"3,5"', "1_0", "high"])
def test_what_is_no_number_in_csv_is_refused_with_the_row(write: Write, field: str) -> None:
    file = write("p.csv", f"prompt,guidance\na,1\nb,{field}\n")
    assert f"row 1 of {file}, column guidance: " in refusal(file)


def test_every_problem_of_a_row_is_told(write: Write) -> None:
    """Conversion and checks find them, and they stand together, in the order of the rows."""
    file = write("p.csv", "prompt,seed,width\n,x,17\n" + "a,y,64\n" * 20)
    lines = refusal(file).splitlines()
    assert lines[0].startswith("23 problems in the manifest, the first 10 ")
    assert [line.split(": ")[0] for line in lines[1:5]] == [
        f"  row 0 of {file}, column seed",
        f"  row 0 of {file}, column prompt",
        f"  row 0 of {file}, column width",
        f"  row 1 of {file}, column seed",
    ]


def test_ragged_rows_hide_no_other_problem(write: Write) -> None:
    file = write("p.csv", b"prompt,seed\na,1\n\xff,2,3\n\nb\n,x\n")
    message = refusal(file)
    assert message.startswith("4 problems")
    assert f"row 1 of {file}: 3 fields in line 3, the header has 2: '\\udcff,2,3'; quote" in message
    assert f"row 2 of {file}: 1 field in line 5" in message
    assert f"row 3 of {file}, column prompt: is null" in message
    assert f"row 3 of {file}, column seed: 'x'" in message


def test_rows_say_from_where_they_are_counted(write: Write) -> None:
    message = refusal(write("p.csv", "prompt,seed\n\na,1\n\nb,x\n"))
    assert message.startswith("row 1 of ")
    assert message.endswith(
        "(rows are counted from 0 within their file, without headers and blank lines)"
    )


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' stands twice"),
        ('{"prompt": "a", "x": {"k": 1, "k": 2}}', "the key 'k' stands twice"),
        ('{"prompt": "a", "x": ' + "[" * 500 + "]" * 500 + "}", "nested 501 deep; at most 500"),
        ('{"prompt": "a", "x": ' + "[" * 100_000, "nested 100001 deep; at most 500"),
        ('{"prompt": "a", "x": 1e400}', "'1e400' is too large for a number"),
        ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('["a"]', "found '[\"a\"]'"),
        ('"a"', "found '\"a\"'"),
        ('{"prompt": "a"} {"prompt": "b"}', "Extra data"),
    ],
    ids=range(9),
)
def test_json_that_readers_would_understand_differently_is_refused(
    write: Write, line: str, fault: str
) -> None:
    file = write("p.jsonl", '{"prompt": "a"}\n' + line + "\n")
    assert refusal(file).startswith(f"row 1 of {file}: not a JSON object: {fault}")


def test_brackets_inside_of_texts_are_no_nesting(write: Write) -> None:
    text = '[[{"' * 200
    (made,) = all_pictures(write("p.jsonl", json.dumps({"prompt": "a", "x": text}) + "\n"))
    assert json.loads(made.extra) == {"x": text}


def test_whole_numbers_and_numeric_ids_of_json_are_read(write: Write) -> None:
    rows = [{"prompt": "a", "seed": 7.0, "id": 5, "steps": 1e1}, {"prompt": "b", "id": "x"}]
    file = write("p.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    one, two = all_pictures(file)
    assert (one.seed, one.id, one.steps, two.id) == (7, "5", 10, "x")


@pytest.mark.parametrize("value", [7.5, 2.0**53, True, "7", [7]])
def test_other_values_of_json_are_no_integers(write: Write, value: object) -> None:
    file = write("p.jsonl", json.dumps({"prompt": "a", "seed": value}) + "\n")
    assert f"row 0 of {file}, column seed: " in refusal(file)


def test_every_problem_of_json_lines_is_told(write: Write) -> None:
    file = write("p.jsonl", '{"prompt": "", "seed": "x", "width": 17}\n[1]\n\n{"prompt": 5}\n')
    message = refusal(file)
    assert message.startswith("5 problems")
    for place in ("0 of {}, column seed", "0 of {}, column width", "1 of {}: not", "2 of {}, co"):
        assert f"row {place.format(file)}" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "prompt\na\n".encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
        ("p.csv", "prompt\na\n".encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8"),
        ("p.csv", "prompt\na\n".encode("utf-16")[:-1], "cannot be decoded"),
        ("p.txt", b"a\n\xff\n", "row 1 of {file}, column prompt: is not valid UTF-8"),
        (
            "p.csv.gz",
            gzip.compress(b"prompt\na\n" * 999, mtime=0)[:-9],
            "{file}: cannot be unpacked",
        ),
        ("p.jsonl.gz", b'{"prompt": "a"}\n', "{file}: cannot be unpacked: Not a gzipped file"),
        ("p.txt", "\n \n", "{file}: no rows"),
        ("p.csv", "\n\n", "{file}: no header"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    write: Write, name: str, content: str | bytes, message: str
) -> None:
    file = write(name, content)
    assert message.format(file=file) in refusal(file)


def test_a_table_without_a_header_is_told_of_text_files(write: Write) -> None:
    message = refusal(write("p.csv", "a red cat\na blue dog\n"))
    assert "no column prompt" in message
    assert message.endswith("a prompt a line, without names, is a .txt.")


def test_a_refused_table_leaves_nothing_behind(write: Write, tmp_path: Path) -> None:
    refusal(write("p.csv", "prompt,width\na,17\n"))
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_ten_thousand_columns_are_read_in_seconds(write: Write) -> None:
    """One second where this was written; time that grows with the square would be eight."""
    names = ",".join(f"c{i}" for i in range(10_000))
    file = write("p.csv", f"prompt,{names}\na{',1' * 10_000}\n")
    begun = time.process_time()
    assert len(validate(file).columns.travelling) == 10_000
    assert time.process_time() - begun < 5


def test_lines_that_look_like_comments_or_options_are_told(write: Write) -> None:
    file = write("p.txt", "# my prompts\na cat --w 512 --d 42\na dog --n grey\na well-known fox\n")
    assert validate(file).described == (
        "text, a prompt a line, UTF-8; 1 line begins with #, 2 lines hold options (--w 512): "
        "all of it is prompt"
    )


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.txt", "p.jsonl", "p.parquet", "p.arrow"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "a web page"),
        (b"PK\x03\x04" + bytes(60), "an Excel workbook"),
        (b"\x28\xb5\x2f\xfd" + bytes(60), "compressed by zstd; unpack it: unzstd -c"),
    ],
)
def test_a_file_that_is_something_else_is_told_by_what_it_is(
    write: Write, name: str, content: bytes, told: str
) -> None:
    message = refusal(write(name, content))
    assert name in message
    assert told in message


def test_tables_under_a_wrong_name_are_told_by_their_kind(write: Write, parquet: Parquet) -> None:
    table = parquet().read_bytes()
    assert refusal(write("p.csv", table)).endswith("p.csv: Parquet; name it .parquet")
    assert "it is Parquet; name it" in refusal(write("p.arrow", table))
    assert "gunzip -c" in refusal(write("q.csv", gzip.compress(b"prompt\na\n")))
    assert "the first line is JSON" in refusal(write("p.txt", '{"prompt": "a"}\n'))
    array = refusal(write("p.jsonl", '[\n{"prompt": "a"},\n{"prompt": "b"}\n]\n'))
    assert "a JSON array; write one object a line: jq -c '.[]' " in array
