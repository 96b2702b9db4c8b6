"""A picture file is complete or absent, whatever happens meanwhile."""

import errno
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glmimage import output
from glmimage.errors import OutputError
from glmimage.output import NewFolder, PictureFiles, choose_paths, remove_unfinished

PICTURE = Image.new("RGB", (64, 64), (200, 30, 30))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("wanted", "picture_format", "num_images", "expected", "chosen"),
    [
        (None, None, 1, ["glmimage-7.png"], "png"),
        (None, "jpeg", 1, ["glmimage-7.jpg"], "jpeg"),
        ("a.png", None, 1, ["a.png"], "png"),
        ("a.JPG", None, 1, ["a.JPG"], "jpeg"),
        ("a.jpeg", "jpeg", 2, ["a-1.jpeg", "a-2.jpeg"], "jpeg"),
        ("a", None, 1, ["a.png"], "png"),
        ("v1.2", "jpeg", 1, ["v1.2.jpg"], "jpeg"),
        ("sub/a.b.png", None, 2, ["sub/a.b-1.png", "sub/a.b-2.png"], "png"),
    ],
)
def test_names(wanted, picture_format, num_images, expected, chosen):
    paths, found = choose_paths(wanted and Path(wanted), picture_format, num_images, seed=7)
    assert ([str(path) for path in paths], found) == (expected, chosen)


@pytest.mark.parametrize(
    ("wanted", "picture_format", "says"),
    [
        ("a.webp", None, "Unknown picture format '.webp'"),
        ("a.png", "jpeg", "not a name for a jpeg file"),
        ("..", None, "is a folder"),
        (".", None, "is a folder"),
        ("/tmp", None, "is a folder"),
    ],
)
def test_names_that_are_refused(wanted, picture_format, says):
    with pytest.raises(OutputError, match=says):
        choose_paths(Path(wanted), picture_format, 1, seed=7)


def test_files_get_their_names_only_when_all_are_complete(tmp_path):
    paths = [tmp_path / "a-1.png", tmp_path / "a-2.jpg"]
    with PictureFiles(paths[:1], "png") as files:
        files.write(0, PICTURE)
        assert names(tmp_path) != ["a-1.png"]
        assert all(name.endswith(".part") for name in names(tmp_path))
        assert files.finish() == paths[:1]
    assert names(tmp_path) == ["a-1.png"]
    with Image.open(paths[0]) as image:
        assert image.getpixel((9, 9)) == (200, 30, 30)


def test_new_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").touch()
    with PictureFiles([tmp_path / "a.png"], "png") as files:
        files.write(0, PICTURE)
        files.finish()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_failure_between_two_pictures_leaves_nothing_and_keeps_the_old(tmp_path):
    (tmp_path / "a-1.png").write_bytes(b"old")
    files = PictureFiles([tmp_path / "a-1.png", tmp_path / "a-2.png"], "png")
    with pytest.raises(RuntimeError), files:
        files.write(0, PICTURE)
        raise RuntimeError
    assert names(tmp_path) == ["a-1.png"]
    assert (tmp_path / "a-1.png").read_bytes() == b"old"


def test_a_link_keeps_being_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "a.png")
    with PictureFiles([tmp_path / "link.png"], "png") as files:
        files.write(0, PICTURE)
        files.finish()
    assert (tmp_path / "link.png").is_symlink()
    with Image.open(tmp_path / "real" / "a.png") as image:
        assert image.size == (64, 64)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_said_and_nothing_is_left(tmp_path, monkeypatch, number):
    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(output.os, "fsync", fail)
    with (
        pytest.raises(OutputError, match="No space left to write"),
        PictureFiles([tmp_path / "a.png"], "png") as files,
    ):
        files.write(0, PICTURE)
    assert names(tmp_path) == []


def test_a_real_short_write_leaves_nothing(tmp_path):
    """A file-size limit makes the kernel refuse the write half-way, as a full disk does."""
    script = (
        "from glmimage.output import PictureFiles\n"
        "from PIL import Image\n"
        "from pathlib import Path\n"
        "noise = Image.effect_noise((256, 256), 90).convert('RGB')\n"
        f"with PictureFiles([Path({str(tmp_path / 'a.png')!r})], 'png') as files:\n"
        "    files.write(0, noise)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    assert "OutputError: Cannot write" in done.stderr
    assert "file too large" in done.stderr
    assert names(tmp_path) == []


def test_a_disk_that_is_too_full_is_refused_before_the_work(tmp_path):
    with pytest.raises(OutputError, match="KiB are free"):
        PictureFiles([tmp_path / "a.png"], "png", needed_bytes=2**62)


def test_targets_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.png")
    cases = {
        tmp_path / "absent" / "a.png": "There is no folder",
        tmp_path / "folder.png": "is a folder",
        tmp_path / "file" / "a.png": "file",
        tmp_path / "pipe.png": "not an ordinary file",
        Path("/proc/a.png"): "Cannot write",
        tmp_path / ("long" * 99 + ".png"): "too long",
    }
    for path, says in cases.items():
        with pytest.raises(OutputError, match=says):
            PictureFiles([path], "png")


@pytest.fixture
def ordinary_user():
    """Be somebody whom permissions stop, also where the tests run as root."""
    was = os.geteuid()
    folder = Path(tempfile.mkdtemp())
    if was == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    folder.chmod(0o755)
    os.seteuid(was)
    shutil.rmtree(folder)


def test_permissions_are_respected(ordinary_user):
    (ordinary_user / "a.png").write_bytes(b"x")
    (ordinary_user / "a.png").chmod(0o444)
    with pytest.raises(OutputError, match="No permission"):
        PictureFiles([ordinary_user / "a.png"], "png")
    ordinary_user.chmod(0o555)
    with pytest.raises(OutputError, match="permission denied"):
        PictureFiles([ordinary_user / "b.png"], "png")


def test_unfinished_files_and_folders_can_be_swept(tmp_path):
    files = PictureFiles([tmp_path / "a.png"], "png")
    files.write(0, PICTURE)
    folder = NewFolder(tmp_path / "new").__enter__()
    (folder / "weights").write_bytes(b"x")
    assert len(names(tmp_path)) == 2
    remove_unfinished()
    assert names(tmp_path) == []


def test_a_new_folder_appears_complete_or_not_at_all(tmp_path):
    with NewFolder(tmp_path / "new") as folder:
        (folder / "a").touch()
        assert not (tmp_path / "new").exists()
    assert names(tmp_path / "new") == ["a"]
    with pytest.raises(RuntimeError), NewFolder(tmp_path / "other") as folder:
        (folder / "a").touch()
        raise RuntimeError
    assert names(tmp_path) == ["new"]
    with pytest.raises(OutputError, match="already exists"):
        NewFolder(tmp_path / "new")


@pytest.mark.parametrize("picture_format", ["png", "jpeg"])
def test_pictures_that_do_not_compress_are_encoded(picture_format):
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    content = output.encode_picture(Image.fromarray(noise), picture_format)
    with Image.open(io.BytesIO(content)) as image:
        close = np.abs(np.asarray(image).astype(int) - noise).mean()
    assert close == 0 if picture_format == "png" else close < 8


def test_jpeg_keeps_coloured_letters_sharp():
    """Halved colour resolution would smear a one-pixel red stroke on blue."""
    picture = Image.new("RGB", (64, 64), (0, 0, 255))
    picture.paste((255, 0, 0), (32, 0, 33, 64))
    with Image.open(io.BytesIO(output.encode_picture(picture, "jpeg"))) as image:
        red, _, blue = image.getpixel((32, 32))
    assert red > 200
    assert blue < 60
