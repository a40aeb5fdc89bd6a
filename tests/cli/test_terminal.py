"""What a terminal, a locale, a disk and an impatient user do to a command line: at most one line, no traceback."""

import errno
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from groundprune.cli import main
from groundprune.report.writing import replacing

PROGRAM = [sys.executable, "-m", "groundprune"]


pytestmark = pytest.mark.usefixtures("beside_a_photo")


def environment(**given):
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1", **given}


def run(*words, **settings):
    more = {"env": environment(), "stderr": subprocess.PIPE, "stdout": subprocess.PIPE, **settings}
    return subprocess.run([*PROGRAM, *words], check=False, **more)


class TestStaticTable:
    CHECK = (
        "import sys; from groundprune.cli import main\n"
        "assert main(['list']) == main(['list', '--json']) == 0\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )

    def test_list_needs_no_torch(self):
        done = subprocess.run([sys.executable, "-c", self.CHECK], env=environment(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"cls-visual" in done.stdout

    def test_a_hub_that_is_out_of_reach_is_said_before_torch_is_imported(self):
        check = (
            "import sys; from groundprune.cli import main\n"
            "for command in ('ground photo.png x', 'ask photo.png x', 'verify', 'compare', 'evaluate'):\n"
            "    assert main([*command.split(), '--model', 'nobody/nothing']) == 2\n"
            "assert 'torch' not in sys.modules"
        )
        nowhere = environment(HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0", TRANSFORMERS_OFFLINE="0")
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", check], env=nowhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (
            done.stderr.splitlines()
            == ["groundprune: no checkpoint at 'nobody/nothing': no such folder, and the Hub is out of reach"] * 5
        )
        assert time.monotonic() - start < 20  # asked again and again it would take 23 s each


class TestTerminals:
    def test_a_person_sees_at_once_what_is_going_on(self):
        reader, writer = pty.openpty()
        started = subprocess.Popen([*PROGRAM, "ask", "photo.png", "how many stars"], env=environment(), stderr=writer,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        first = os.read(reader, 1000)
        running = started.poll() is None
        started.terminate()
        started.wait()
        assert first == b"groundprune: loading pocket ...\r\n"
        assert running

    def test_a_locale_of_ascii(self):
        ascii_only = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        Path("紫.png").write_bytes(Path("photo.png").read_bytes())
        done = run("ground", "紫.png", "紫色", "--pruner", "cls-visual", env=ascii_only)
        assert done.returncode in (0, 1), done.stderr
        assert done.stderr == "groundprune: warning: the model does not know: 紫色\n".encode()
        assert b"overlay" in done.stdout
        assert Path("紫.ground.png").is_file()

    def test_what_is_no_text_is_refused(self):
        done = run("ask", "photo.png", b"how many \xe9toiles", env=environment(LC_ALL="C.UTF-8"))
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert b"is not text in UTF-8" in done.stderr

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    @pytest.mark.parametrize("words", ["--version", "list", "list --json", "scene a.png", "--help"])
    def test_a_full_device(self, words):
        with open("/dev/full", "wb") as full:
            done = run(*words.split(), stdout=full)
            assert (done.returncode, done.stderr) == (2, b"groundprune: cannot write: No space left on device\n")
            assert run("no-such-command", stderr=full).returncode == 2

    def test_a_reader_that_goes_away(self):
        reader, writer = os.pipe()
        os.close(reader)
        done = run("list", "--json", stdout=writer)
        os.close(writer)
        assert done.returncode != 0
        assert done.stderr == b""

    @pytest.mark.parametrize("words", ["list", "--help", "ground --help", "scene a.png"])
    def test_a_narrow_terminal(self, words):
        assert run(*words.split(), env=environment(COLUMNS="20", TERM="xterm")).returncode == 0

    @pytest.mark.parametrize("after", [0.0, 0.05, 0.2])
    def test_ctrl_c_while_it_starts(self, after):
        # What Python does before the program's own first import is not ours: the clock starts there.
        traced = (
            "import sys; from groundprune.__main__ import run\n"
            "sys.addaudithook(lambda e, a: e == 'import' and a[0] == 'groundprune.cli' and print('on', flush=True))\n"
            "sys.exit(run())"
        )
        started = subprocess.Popen(
            [sys.executable, "-c", traced, "compare"], env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert started.stdout is not None
        assert started.stdout.readline() == "on\n"
        time.sleep(after)
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=60)
        assert (started.returncode, said) == (130, "groundprune: interrupted\n")


class TestFullDisk:
    """The disk is full when a picture is half written."""

    @pytest.fixture
    def full(self, monkeypatch):
        def save(picture, path, *_, **__):
            Path(path).write_bytes(b"half of")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Image.Image, "save", save)

    @pytest.mark.parametrize("words", ["scene out.png", "ground photo.png star --out out.png"])
    def test_nothing_is_left_and_nothing_is_lost(self, full, capsys, words):
        assert main(words.split()) == 2
        assert capsys.readouterr().err == "groundprune: out.png: cannot be written (No space left on device)\n"
        assert os.listdir() == ["photo.png"]
        Path("out.png").write_bytes(b"of before")
        assert main(words.split()) == 2
        assert Path("out.png").read_bytes() == b"of before"
        assert sorted(os.listdir()) == ["out.png", "photo.png"]

    def test_a_link_stays_a_link_and_a_mode_a_mode(self):
        Path("real.txt").write_text("old")
        Path("real.txt").chmod(0o640)
        Path("link.txt").symlink_to("real.txt")
        with replacing(Path("link.txt")) as draft:
            draft.write_text("new")
            assert Path("real.txt").read_text() == "old"
        assert Path("link.txt").is_symlink()
        assert Path("real.txt").read_text() == "new"
        assert Path("real.txt").stat().st_mode & 0o777 == 0o640

    def test_a_device_is_written_itself(self):
        with replacing(Path(os.devnull)) as draft:
            assert str(draft) == os.devnull
        assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    "words", ["ground photo.png x --pruner random", "ask photo.png x --pruner random", "compare", "evaluate",
              "scene a.png"],
)  # fmt: skip
def test_a_negative_seed_is_refused_alike(words, capsys):
    assert main([*words.split(), "--seed", "-1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("groundprune: Invalid value for '--seed': ")
