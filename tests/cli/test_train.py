"""`glmimage train lora` and `--lora` as a person meets them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from glmimage.cli import run

FAST = ["--resolution", "512", "--rank", "2", "--device", "cpu", "--dtype", "float32"]
PAINT = ["--size", "square", "--steps", "1", "--device", "cpu", "--dtype", "float32", "--seed", "1"]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Work in an empty folder with one captioned picture in `pictures`."""
    for name in [name for name in os.environ if name.startswith("GLMIMAGE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "pictures").mkdir()
    Image.linear_gradient("L").resize((512, 512)).save(tmp_path / "pictures/a.png")
    (tmp_path / "pictures/a.txt").write_text("A sign that says 'A'")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def test_train_and_paint(pictures, tiny_dir, capsys):
    options = ["--model", str(tiny_dir), *FAST, "--learning-rate", "0.1"]
    command = ["train", "lora", "pictures", "-o", "style", "--steps", "2", "--train", "decoder"]
    assert run([*command, *options, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["parts"]["decoder"]["step"] == 2
    assert err == ""
    made = []
    for lora in ([], ["--lora", "style"], ["--lora", "style:0"]):
        arguments = ["generate", "A sign", "-o", "sign.png", "--model", str(tiny_dir), *PAINT]
        assert run([*arguments, "-q", *lora]) == 0
        made.append((pictures.parent / "sign.png").read_bytes())
    assert made[0] == made[2] != made[1]
    capsys.readouterr()
    assert run([*command, *options]) == 2
    assert "--resume" in capsys.readouterr().err
    assert run([*command, *options, "--resume", "--steps", "3"]) == 0
    out, err = capsys.readouterr()
    assert "use it with: glmimage generate ... --lora style" in out
    assert "decoder 3: loss" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "lora", "absent", "-o", "style"], "There is no folder 'absent'"),
        (["train", "lora", "pictures", "-o", "style", "--rank", "0"], "--rank is 0"),
        (["train", "lora", "pictures", "-o", "style", *FAST, "--model", "absent"], "'absent'"),
        (["train", "lora", "pictures", "-o", "pictures/a.txt/style", *FAST], "Cannot write"),
        (["train", "lora", "pictures", "-o", "style", "--resolution", "1024"], "is 512x512 px"),
        (["generate", "A sign", "--lora", "absent:0.5"], "no folder of adapters 'absent'"),
        (["generate", "A sign", "--lora", "pictures"], "holds neither"),
        (["generate", "A sign", "--lora", "a:9"], "scale of adapter 'a' is 9"),
    ],
)
def test_what_is_wrong_is_one_sentence(pictures, arguments, words, capsys):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert words in err
    assert len(err.splitlines()) == 1


def test_ctrl_c_keeps_what_was_learnt_and_says_how_to_go_on(pictures, tiny_dir):
    command = [sys.executable, "-m", "glmimage", "train", "lora", "pictures", "-o", "style"]
    command += ["--model", str(tiny_dir), *FAST, "--train", "prior", "--steps", "100000"]
    process = subprocess.Popen(
        [*command, "--save-every", "1"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    log = pictures.parent / "style/prior/log.jsonl"
    deadline = time.monotonic() + 300
    while not log.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "what was learnt is saved. Go on with the same command and --resume." in err
    assert "Traceback" not in err
    reached = json.loads(log.read_text().splitlines()[-1])["step"]
    process = subprocess.run(
        [*command, "--resume", "--steps", str(reached + 1), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(process.stdout)["parts"]["prior"]["step"] == reached + 1
