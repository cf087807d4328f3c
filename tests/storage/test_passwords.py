import shlex

import pytest

from automl_cxr.storage.passwords import command_without_passwords, without_password, without_password_of


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("postgresql://me:secret@host/x", "postgresql://me:***@host/x"),
        ("postgresql://me:a secret with spaces@host/x", "postgresql://me:***@host/x"),
        ("postgresql://me@corp:se@c:r/et@host:5432/x", "postgresql://me@corp:***@host:5432/x"),
        ("postgresql://:secret@host/x", "postgresql://:***@host/x"),
        ("postgresql+psycopg://me:se?cret@host/x", "postgresql+psycopg://me:***@host/x"),
        ("postgresql://host/x?user=me&password=a secret&port=3", "postgresql://host/x?user=me&password=***&port=3"),
        ("postgresql://me@host/x?sslpassword=secret&sslmode=require", "postgresql://me@host/x?sslpassword=***&sslmode=require"),
        ("mysql://host/x?passwd=secret", "mysql://host/x?passwd=***"),
        ("mysql://host/x?ssl_key_password=secret&PWD=secret", "mysql://host/x?ssl_key_password=***&PWD=***"),
        ("sqlite:////home/me/studies.db", "sqlite:////home/me/studies.db"),
        ("grpc://[::1]:13000", "grpc://[::1]:13000"),
        ("postgresql://me@host:5432/x?connect_timeout=3", "postgresql://me@host:5432/x?connect_timeout=3"),
    ],
)
def test_every_password_of_a_url_is_hidden(url, hidden):
    assert without_password(url) == hidden
    assert without_password(f"The storage {url} cannot be opened").startswith(f"The storage {hidden}")
    command = shlex.join(["search", f"--storage={url}", "--storage", url, "--data", "a@b", "--trials", "3"])
    expected = shlex.join(["search", f"--storage={hidden}", "--storage", hidden, "--data", "a@b", "--trials", "3"])
    assert command_without_passwords(command) == expected


def test_a_command_that_is_not_quoted_for_a_shell_contains_no_password():
    text = "search --name it's --storage postgresql://me:a secret@host/x --data mysql://x/y?user=me&password=secret"
    hidden = "search --name it's --storage postgresql://me:***@host/x --data mysql://x/y?user=me&password=***"
    assert command_without_passwords(text) == hidden


@pytest.mark.parametrize("form", ["pa ss%21", "pa ss!", "pa%20ss%21"])
def test_a_message_of_a_driver_contains_no_form_of_the_password(form):
    url = "postgresql://me:pa ss%21@host/x?sslpassword=other"
    assert (
        without_password_of(url, f'no pg_hba.conf entry for "{form}" and "other"') == 'no pg_hba.conf entry for "***" and "***"'
    )
