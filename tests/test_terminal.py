import json

from automl_cxr.terminal import printable_json, printable_line, printable_text


def test_control_characters_are_escaped_and_other_characters_are_kept():
    clear_screen, set_title, c1 = "\x1b[2J", "\x1b]0;owned\x07", "\x9b31m"
    assert printable_line(clear_screen + set_title + c1) == r"\x1b[2J\x1b]0;owned\x07\x9b31m"
    assert printable_line("a\rb\nc\td\x7f\x00") == r"a\rb\nc\td\x7f\x00"
    assert printable_line("\u202egnp.exe\u2028\udcff") == r"\u202egnp.exe\u2028\udcff"
    assert printable_line("naïve 肺炎 🫁 “x” \\x1b") == "naïve 肺炎 🫁 “x” \\x1b"


def test_text_keeps_its_lines():
    assert printable_text("a\n\tb\r\n\x1b") == "a\n\tb\\r\n\\x1b"


def test_json_keeps_its_meaning():
    value = {"covid\x1b[31m": "\x9b31m\u202e\udcff\x7f", "lines": ["a\nb"]}
    text = printable_json(json.dumps(value, indent=1, ensure_ascii=False))
    assert json.loads(text) == value
    assert all(character.isprintable() or character == "\n" for character in text)
