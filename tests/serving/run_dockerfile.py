"""Run the steps of the Dockerfile in a virtual environment, for machines without Docker, and send requests to the server.

    python tests/serving/run_dockerfile.py STUDY --runs automl_runs --file chest.png

Builds the wheel, installs it with the extras of the Dockerfile into a new environment, sets the variables of the Dockerfile,
and starts its entry point in an empty folder. --packages adds a folder with installed packages, which are not downloaded then.
"""

import argparse
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600


def read_dockerfile():
    """Return the extras that are installed, the variables, and the entry point."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    extras = re.search(r"whl\)\[([\w,]+)\]", text)[1]
    variables = dict(pair.split("=", 1) for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for pair in line.split())
    return extras, variables, json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])


def install(folder, extras, packages):
    """Build the wheel and install it with its extras; return the folder of the programs."""
    run = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder / "dist"), str(ROOT)]
    subprocess.run(run, check=True)
    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / "bin"
    if packages:
        site = next((folder / "venv" / "lib").glob("python*/site-packages"))
        (site / "others.pth").write_text("\n".join(str(Path(one).resolve()) for one in packages))
    (wheel,) = (folder / "dist").glob("automl_cxr-*.whl")
    subprocess.run(
        [bin_folder / "python", "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", f"{wheel}"], check=True
    )
    subprocess.run([bin_folder / "python", "-m", "pip", "install", "--quiet", f"{wheel}[{extras}]"], check=True)
    return bin_folder


def request(url, *, token="", file=None):
    """Return the status and the body of an answer."""
    headers, data = ({"Authorization": f"Bearer {token}"} if token else {}), None
    if file is not None:
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'
        data = head.encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=START_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def main():
    """Install, start, and check the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True, help="a PNG, JPEG or DICOM radiograph")
    parser.add_argument("--packages", action="append", default=[], help="folder with installed packages; repeatable")
    arguments = parser.parse_args()
    extras, variables, entry_point = read_dockerfile()
    with tempfile.TemporaryDirectory() as name:
        bin_folder = install(Path(name), extras, arguments.packages)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        values = {"8000": str(port), "/runs": str(arguments.runs.resolve())}
        command = [str(bin_folder / entry_point[0]), *(values.get(one, one) for one in entry_point[1:]), arguments.study]
        token, home = secrets.token_hex(24), Path(name) / "home"
        home.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), **variables, "AUTOML_CXR_TOKEN": token}
        server = subprocess.Popen(command, cwd=home, env=environment)
        try:
            check(f"http://127.0.0.1:{port}", server, token, arguments.file)
        finally:
            server.terminate()
            code = server.wait(timeout=60)
    assert code == 0, f"exit code {code}"
    print("The steps of the Dockerfile work: the server starts from the wheel, answers, and ends.")


def check(address, server, token, file):
    """Send requests with and without the token."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            status, _ = request(f"{address}/health")
            break
        except urllib.error.URLError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.5)
    assert status == 200
    for path in ("/", "/static/page.js", "/docs", "/docs-assets/swagger-ui-bundle.js"):
        assert request(address + path)[0] == 200, path
    assert request(f"{address}/predict", file=file)[0] == 401
    status, body = request(f"{address}/predict?heatmap=true", token=token, file=file)
    assert status == 200, body
    print(json.dumps({name: json.loads(body)[name] for name in ("study", "classifier", "probabilities", "decision")}))


if __name__ == "__main__":
    main()
