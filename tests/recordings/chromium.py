"""A browser without a window, by chromedriver's plain HTTP; only what the tests need."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine needs no proxy


class Browser:
    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=quiet, stderr=quiet)
        self.url = f"http://127.0.0.1:{port}"
        try:
            self._start()
        except BaseException:
            self.process.kill()
            self.process.wait(20)
            raise

    def _start(self) -> None:
        until = time.monotonic() + 60
        while True:
            try:
                self.call("GET", "/status")
                break
            except OSError:
                assert time.monotonic() < until, "chromedriver does not answer"
                time.sleep(0.1)
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"]
        options = {"args": [*switches, "--window-size=1200,900", "--autoplay-policy=no-user-gesture-required"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.url += f"/session/{session['sessionId']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with _DIRECT.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def run(self, code: str, *arguments: Any) -> Any:
        return self.call("POST", "/execute/sync", {"script": code, "args": list(arguments)})

    def wait(self, code: str, seconds: float = 20) -> Any:
        """What the code returns once that is true."""
        until = time.monotonic() + seconds
        while not (found := self.run(code)):
            assert time.monotonic() < until, f"never true: {code}"
            time.sleep(0.1)
        return found

    def click(self, selector: str, across: float = 0.5) -> None:
        """Where a person would: on the screen, at a share of the element's width."""
        x, y = self.run(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.left + b.width * arguments[1], b.top + b.height / 2];",
            *(selector, across),
        )
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y)}, {"type": "pointerDown", "button": 0}]
        pointer = {"type": "pointer", "id": "mouse", "actions": [*moves, {"type": "pointerUp", "button": 0}]}
        self.call("POST", "/actions", {"actions": [pointer]})

    def press(self, key: str) -> None:
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def log(self) -> list[str]:
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def media(self, **features: str) -> None:
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"features": wanted}})

    def width(self, pixels: int) -> None:
        size = {"width": pixels, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        self.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})

    def quit(self) -> None:
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(20)
