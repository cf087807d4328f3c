"""Make the pictures of the documentation from a small study on phantom radiographs.

    python docs/make_pictures.py [FOLDER]

Writes docs/images/*.png. Needs automl_cxr, its dashboard, and Chromium (the command ``chromium``, or the path in CHROMIUM).
FOLDER keeps the study for another run; by default it is temporary. Takes some minutes on two cores.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

import automl_cxr

IMAGES = Path(__file__).parent / "images"
CHROMIUM = os.environ.get("CHROMIUM", "chromium")
PROGRAM = str(Path(sys.executable).with_name("automl-cxr"))
STUDY = "phantoms"


def run(*words: str) -> None:
    """Run a command of automl-cxr."""
    subprocess.run([PROGRAM, *words], check=True)


def screenshot(url: str, name: str, *, width: int = 1200, height: int = 900, wait_seconds: int = 8) -> None:
    """Save a screenshot of a page as docs/images/NAME.png, with 128 colours to keep the file small."""
    target = IMAGES / f"{name}.png"
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-background-networking",
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                f"--virtual-time-budget={1000 * wait_seconds}",
                f"--screenshot={target}",
                url,
            ],
            check=True,
            capture_output=True,
        )
    Image.open(target).convert("RGB").quantize(128).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size // 1024} KiB")


@contextlib.contextmanager
def dashboard() -> Iterator[str]:
    """Serve the Optuna dashboard on a free port and return the address of its first study."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [PROGRAM, "dashboard", "--port", str(port)]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        _, _, token = server.stderr.readline().split()[2].partition("?")  # Dashboard at http://...?token=... (stop with Ctrl-C)
        yield f"http://127.0.0.1:{port}/dashboard/studies/1?{token}"
    finally:
        server.terminate()
        server.wait()


def main(folder: Path) -> None:
    """Make the study if it does not exist, then all pictures."""
    os.chdir(folder)
    IMAGES.mkdir(exist_ok=True)
    if not Path("chests").exists():
        run("data", "demo", "chests", "--images", "300", "--image-size", "96")
        run("search", "--data", "chests", "--name", STUDY, "--trials", "6", "--epochs", "8", "--image-size", "64")
        run("ensemble", "build", STUDY, "--top", "3")
        run("evaluate", STUDY)
    run("report", STUDY, "--out", "report.html")
    screenshot(Path("report.html").absolute().as_uri(), "report", height=1100)
    examples = [sorted(folder.glob("*.png"))[0] for folder in sorted(Path("chests").iterdir()) if folder.is_dir()]
    shutil.rmtree("why", ignore_errors=True)
    run("explain", STUDY, *map(str, examples), "--out", "why")
    sheet = sorted(Path("why").glob("*.png"))
    page = "".join(f'<img src="{picture.name}" width="380" alt="">' for picture in sheet)
    (Path("why") / "page.html").write_text(f"<body style='margin:8px'>{page}</body>", encoding="utf-8")
    screenshot((Path("why") / "page.html").absolute().as_uri(), "heatmaps", height=270)
    automl_cxr.open_study(STUDY).figures.learning_curves().write_html("curves.html")
    screenshot(Path("curves.html").absolute().as_uri(), "learning_curves", height=560)
    with dashboard() as url:
        screenshot(url, "dashboard", height=1000, wait_seconds=15)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
