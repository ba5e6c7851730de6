"""What is shown in a browser, and who else learns of it: with a stand-in for the browser, which is a program too."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.workshop import until

BROWSER = """
import sys, time, urllib.request
from pathlib import Path
page = urllib.request.urlopen(sys.argv[1], timeout=60)
Path("saw").write_text(page.geturl())
while not Path("end").exists():
    time.sleep(0.02)
"""
SHOW = """
import sys
from remoterun.cli import browser
assert browser.show(sys.stdin.readline().strip())
sys.stdin.read()
"""
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).geturl())"


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="a process list in /proc")
def test_a_token_reaches_the_browser_and_no_process_list(tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(BROWSER)
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/lab?token=aVerySecretOne"
        env = {**os.environ, "BROWSER": f"{sys.executable} {tmp_path}/stand_in.py"}
        with subprocess.Popen(
            [sys.executable, "-c", SHOW], env=env, cwd=tmp_path, stdin=subprocess.PIPE, text=True
        ) as shows:
            assert shows.stdin is not None
            print(address, file=shows.stdin, flush=True)
            until(lambda: (tmp_path / "saw").exists() and (tmp_path / "saw").read_text() == address)
            lines = command_lines()
            assert not [line for line in lines if b"aVerySecretOne" in line]
            program = b"%s/stand_in.py\0" % bytes(tmp_path)
            (shown,) = {line.split(b"\0")[2].decode() for line in lines if program in line}
            assert urllib.request.urlopen(shown, timeout=60).geturl() == address
            rebound = urllib.request.Request(shown, headers={"Host": shown.split("/")[2].replace("127.0.0.1", "evil")})
            with pytest.raises(urllib.error.HTTPError, match="403") as refused:
                urllib.request.urlopen(rebound, timeout=60)
            refused.value.close()
            other = subprocess.run([sys.executable, "-c", FETCH, shown], user="nobody", capture_output=True, text=True)
            assert "HTTP Error 403" in other.stderr and other.stdout == ""
            (tmp_path / "end").touch()
        server.shutdown()
