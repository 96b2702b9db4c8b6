"""The command line as a person meets it: pictures, sentences, exit codes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from glmimage.cli import run

# small and short: the toy checkpoint paints noise, but it paints it through every stage
FAST = ["--size", "square", "--steps", "2", "--device", "cpu", "--dtype", "float32"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder, with references beside it, whatever this machine has set."""
    for name in [name for name in os.environ if name.startswith("GLMIMAGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # what --quiet sets is taken back
    pictures = tmp_path / "references"
    pictures.mkdir()
    Image.effect_noise((128, 96), 60).convert("RGB").save(pictures / "photo.jpg")
    Image.new("RGB", (64, 320)).save(pictures / "narrow.png")
    Image.new("1", (9000, 9000)).save(pictures / "huge.png")
    whole = (pictures / "photo.jpg").read_bytes()
    (pictures / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "text.png").write_text("not a picture")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def refused(capsys, arguments):
    """Run a command that must be refused; return its one sentence."""
    code = run(arguments)
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


PHOTO = "../references/photo.jpg"
BAD_REQUESTS = [
    ([""], "prompt is empty"),
    (["  \n "], "prompt is empty"),
    (["x" * 100_000], "100000 characters"),
    ([], "Missing argument 'PROMPT'"),
    (["a", "b"], "b"),
    (["a", "--size", "1000x1000"], "multiple of 32"),
    (["a", "--width", "500", "--height", "512"], "between 512 and 2048"),
    (["a", "--size", "4096x4096"], "between 512 and 2048"),
    (["a", "--size", "poster"], "Unknown size 'poster'"),
    (["a", "--size", ""], "Unknown size"),
    (["a", "--width", "512"], "go together"),
    (["a", "--size", "square", "--width", "512", "--height", "512"], "either --size"),
    (["a", "--steps", "0"], "num_inference_steps is 0"),
    (["a", "--steps", "101"], "num_inference_steps is 101"),
    (["a", "--steps", "many"], "'--steps'"),
    (["a", "--guidance", "0.5"], "guidance_scale is 0.5"),
    (["a", "--guidance", "11"], "guidance_scale is 11"),
    (["a", "--guidance", "nan"], "guidance_scale must be a number"),
    (["a", "--seed", "-1"], "seed is -1"),
    (["a", "--num-images", "0"], "num_images is 0"),
    (["a", "--num-images", "5"], "num_images is 5"),
    (["a", "--image"], "--image"),
    (["a", *["--image", PHOTO] * 5], "given 5 times"),
    (["a", "--image", "absent.png"], "no file 'absent.png'"),
    (["a", "--image", "../references"], "is a folder"),
    (["a", "--image", "../references/text.png"], "not a picture"),
    (["a", "--image", "../references/truncated.jpg"], "cannot be read to its end"),
    (["a", "--image", "../references/narrow.png"], "5.0:1"),
    (["a", "--image", PHOTO, "--image", "../references/huge.png"], "at most 64 megapixels"),
    (["a", "--device", "tpu"], "--device is 'tpu'"),
    (["a", "--dtype", "int4"], "--dtype is 'int4'"),
    (["a", "--memory", "lots"], "--memory is 'lots'"),
    (["a", "--format", "gif"], "'--format'"),
    (["a", "-o", "a.webp"], "Unknown picture format '.webp'"),
    (["a", "-o", "a.png", "--format", "jpeg"], "not a name for a jpeg"),
    (["a", "-o", "absent/a.png"], "no folder 'absent'"),
    (["a", "-o", "../references"], "is a folder"),
    (["a", "-o", "../references/"], "is a folder"),
    (["a", "-o", "/proc/a.png"], "Cannot write"),
    (["a", "--model", ""], "--model is ''"),
    (["a", "--colour", "red"], "--colour"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), BAD_REQUESTS, ids=[says for _, says in BAD_REQUESTS]
)
def test_a_bad_request_gets_one_sentence(folder, capsys, arguments, says):
    assert says in refused(capsys, ["generate", *arguments])
    assert list(folder.iterdir()) == []


def break_index(checkpoint):
    (checkpoint / "model_index.json").unlink()
    return "model_index.json"


def break_architecture(checkpoint):
    index = json.loads((checkpoint / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "FluxTransformer2DModel"]
    (checkpoint / "model_index.json").write_text(json.dumps(index))
    return "FluxTransformer2DModel"


def break_config(checkpoint):
    (checkpoint / "transformer" / "config.json").write_text("{")
    return "transformer/config.json"


def lose_shard(checkpoint):
    shard = sorted((checkpoint / "vision_language_encoder").glob("*.safetensors"))[-1]
    shard.unlink()
    return shard.name


def truncate_shard(checkpoint):
    shard = sorted((checkpoint / "transformer").glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-100])
    return shard.name


def reshape_tensor(checkpoint):
    from safetensors.torch import load_file, save_file

    shard = sorted((checkpoint / "vae").glob("*.safetensors"))[0]
    tensors = load_file(shard)
    name = "decoder.conv_in.bias"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, shard, metadata={"format": "pt"})
    return name


BROKEN = [break_index, break_architecture, break_config, lose_shard, truncate_shard, reshape_tensor]


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_checkpoint_gets_one_sentence(folder, capsys, tiny_dir, damage):
    checkpoint = folder.parent / "checkpoint"
    shutil.copytree(tiny_dir, checkpoint)
    says = damage(checkpoint)
    assert says in refused(capsys, ["generate", "a", *FAST, "--model", str(checkpoint)])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("model", ["nowhere", "./nowhere", "/nowhere/at/all"])
def test_an_unknown_model_gets_one_sentence(folder, capsys, model):
    assert model in refused(capsys, ["generate", "a", *FAST, "--model", model])
    assert list(folder.iterdir()) == []


def test_an_unreachable_model_gets_one_sentence(folder):
    """Offline, an id that was never downloaded cannot be had; told before torch is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "glmimage", "generate", "a", "--model", "some/model"],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "GLMIMAGE_OFFLINE": "1",
            "GLMIMAGE_CACHE_DIR": str(folder.parent / "cache"),
        },
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "some/model" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_disk_that_fills_up_leaves_no_file(folder, capsys, tiny_dir, monkeypatch):
    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glmimage.output.os.fsync", fail)
    sentence = refused(
        capsys, ["generate", "a", *FAST, "-o", "a.png", "--model", str(tiny_dir), "-q"]
    )
    assert "No space left" in sentence
    assert list(folder.iterdir()) == []


def test_a_picture_its_seed_and_its_times(folder, capsys, tiny_dir):
    arguments = ["generate", "A sign that says 'OPEN'", *FAST, "--model", str(tiny_dir)]
    assert run([*arguments, "-o", "a.png", "--seed", "7"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "a.png  512x512  seed 7"
    assert [part.split()[0] for part in second.split(", ")] == [
        "load",
        "prior",
        "denoise",
        "decode",
        "total",
    ]
    with Image.open("a.png") as image:
        assert (image.size, image.mode, image.format) == ((512, 512), "RGB", "PNG")
    assert [path.name for path in folder.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "memory mode resident: both stages (0.0 GiB of weights) fit at once; "),
        (["--memory", "staged"], "memory mode staged: one stage at a time, as asked for; "),
        (["--memory", "layered"], " of the decoder are read anew at every pass, as asked for; "),
        (["--quiet"], None),
        (["--json"], None),
    ],
)
def test_the_memory_mode_and_why_are_one_line_on_stderr(folder, capsys, tiny_dir, options, said):
    arguments = ["generate", "a", *FAST, "--model", str(tiny_dir), "-o", "a.png", *options]
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    if said is not None:
        (line,) = err.splitlines()
        assert line.startswith("memory mode ")
        assert said in line
        assert line.endswith(" GiB are free")
    else:
        assert err == ""
    if "--json" in options:
        memory = json.loads(out)["memory"]
        assert memory["mode"] == "resident"
        assert memory["why"].startswith("both stages (")


def test_several_pictures_as_json(folder, capsys, tiny_dir):
    arguments = ["generate", "a", *FAST, "--num-images", "2", "--seed", "7", "--json"]
    assert run([*arguments, "--model", str(tiny_dir), "--format", "jpeg"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [image["path"] for image in document["images"]] == [
        "glmimage-7-1.jpg",
        "glmimage-7-2.jpg",
    ]
    assert document["seed"] == document["images"][0]["seed"] == 7
    assert document["images"][1]["seed"] != 7
    with Image.open("glmimage-7-1.jpg") as one, Image.open("glmimage-7-2.jpg") as two:
        assert one.format == "JPEG"
        assert one.tobytes() != two.tobytes()


def test_references_change_the_picture(folder, capsys, tiny_dir):
    arguments = ["generate", "a", *FAST, "--seed", "7", "-q", "--model", str(tiny_dir)]
    assert run([*arguments, "-o", "without.png"]) == 0
    assert run([*arguments, "-o", "with.png", "--image", PHOTO, "--image", PHOTO]) == 0
    assert capsys.readouterr().out == ""
    with Image.open("without.png") as one, Image.open("with.png") as two:
        assert one.tobytes() != two.tobytes()


def test_make_tiny_writes_a_model_that_generate_takes(folder, capsys):
    assert run(["make-tiny", "toy", "--seed", "3"]) == 0
    assert capsys.readouterr().out == "toy\n"
    assert (folder / "toy" / "model_index.json").is_file()
    assert run(["generate", "a", *FAST, "--model", "toy", "-o", "a.png", "-q"]) == 0
    assert "already exists" in refused(capsys, ["make-tiny", "toy"])
    assert "no folder" in refused(capsys, ["make-tiny", "absent/toy"])
    assert "seed is -1" in refused(capsys, ["make-tiny", "new", "--seed", "-1"])
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "toy"]


def test_version_and_help(capsys):
    from glmimage import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"glmimage {__version__}\n"
    assert run([]) == 0
    assert "generate" in capsys.readouterr().out
    assert "nonsense" in refused(capsys, ["nonsense"])
