"""Start, reload, drain, workers: with the real command where signals matter."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from http.client import HTTPException

import pytest
import yaml
from tests.guard.build import PATIENCE
from tests.guard.server.serving import CLINIC, FILM, Proxy, config_text, film, serving, wait_until, write

from cosa_guard.server import app as app_module
from cosa_guard.server.tenants import hashed

posix = pytest.mark.skipif(os.name != "posix", reason="signals")


def reload(proxy):
    return asyncio.run_coroutine_threadsafe(proxy.app.reload(), proxy.loop).result(PATIENCE)


class TestReload:
    def test_a_new_file_is_served_and_what_runs_goes_on_under_the_old_one(self, upstream, tmp_path):
        release, asked = threading.Event(), threading.Event()

        async def hold(seen, line):
            asked.set()
            while not release.is_set():
                await asyncio.sleep(0.01)
            await upstream.answer(seen, line)

        path = write(tmp_path, upstream)
        with serving(path) as proxy:
            before = proxy.chat(key=FILM).headers["x-cosa-config"]
            upstream.script = hold
            answers = []
            thread = threading.Thread(target=lambda: answers.append(proxy.chat(key=FILM)))
            thread.start()
            assert asked.wait(PATIENCE)
            write(tmp_path, upstream, tenants=[film(keys=[hashed("new-key")], configs=["mild.yaml"])])
            assert reload(proxy)
            release.set()
            thread.join(PATIENCE)
            old, new = proxy.chat(key=FILM), proxy.chat(key="new-key")

        assert (200, before) == (answers[0].status, answers[0].headers["x-cosa-config"])
        assert (401, 200) == (old.status, new.status)
        assert before != new.headers["x-cosa-config"]

    @pytest.mark.parametrize("broken", ["", "tenants: [", "upstreams: []\ntenants: []\n", "no: such\n"])
    def test_a_broken_file_leaves_the_old_one_served_and_says_so(self, upstream, tmp_path, broken, capfd):
        path = write(tmp_path, upstream)
        with serving(path) as proxy:
            path.write_text(broken)
            assert not reload(proxy)
            assert 200 == proxy.chat(key=FILM).status
            assert {"failed": 1} == dict(proxy.app.metrics.reloads)

        assert "reload failed" in capfd.readouterr().err

    def test_a_config_that_breaks_or_goes_away_leaves_the_old_one_served(self, upstream, tmp_path):
        path = write(tmp_path, upstream)
        with serving(path) as proxy:
            (tmp_path / "strict.yaml").write_text("rules: 1")
            assert not reload(proxy)
            (tmp_path / "strict.yaml").unlink()
            assert not reload(proxy)
            assert 200 == proxy.chat(key=FILM).status

    def test_a_judge_that_cannot_be_made_leaves_the_old_one_served_and_the_files_watched(self, upstream, tmp_path, monkeypatch, capfd):
        monkeypatch.setattr(app_module, "RELOAD_SECONDS", 0.05)
        path = write(tmp_path, upstream)
        with serving(path) as proxy:
            with monkeypatch.context() as patch:
                patch.setattr("cosa_guard.judges.make", lambda name: 1 / 0)
                path.write_text(path.read_text().replace("- rules", "- a-plugin"))
                wait_until(lambda: proxy.app.metrics.reloads["failed"], "the failure")
            assert 200 == proxy.chat(key=FILM).status
            write(tmp_path, upstream)
            wait_until(lambda: proxy.app.metrics.reloads["ok"], "the reload")

        assert "reload failed, serving what was served before: ZeroDivisionError at test_lifecycle.py:" in capfd.readouterr().err

    @pytest.mark.parametrize("name", ["serve.yaml", "strict.yaml", "upstream.key"])
    def test_a_change_of_any_file_is_seen(self, upstream, tmp_path, name, monkeypatch):
        monkeypatch.setattr(app_module, "RELOAD_SECONDS", 0.05)
        with serving(write(tmp_path, upstream)) as proxy:
            (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
            wait_until(lambda: proxy.app.metrics.reloads["ok"] >= 1, "the reload")

    def test_an_upstream_that_did_not_change_stays_as_it_is(self, upstream, tmp_path):
        with serving(write(tmp_path, upstream)) as proxy:
            before = [served.backend for served in proxy.app.site.upstreams]
            assert reload(proxy)
            assert all(one is other for one, other in zip(before, (s.backend for s in proxy.app.site.upstreams), strict=True))
            (tmp_path / "upstream.key").write_text("another-secret")
            assert reload(proxy)
            proxy.chat(key=FILM)

        assert "Bearer another-secret" == upstream.seen[-1].headers["authorization"]

    def test_a_thousand_requests_through_twenty_reloads_all_succeed(self, upstream, tmp_path):
        with serving(write(tmp_path, upstream)) as proxy:
            statuses, stop = [], threading.Event()

            def ask():
                while not stop.is_set():
                    statuses.append(proxy.chat(key=FILM).status)

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(20):
                assert reload(proxy)
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)

        assert {200} == set(statuses)


class Command:
    """`cosa serve` as a process."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cosa_guard.cli", "serve", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.said.append(line)

    @property
    def text(self):
        return "".join(self.said)

    def port(self):
        wait_until(lambda: "listening on" in self.text or self.process.poll() is not None, "listening")
        assert "listening on" in self.text, self.text
        return int(re.search(r"listening on http://[\d.]+:(\d+)", self.text)[1])

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        self.process.stderr.close()
        self.process.stdout.close()


def proxy_at(port):
    return Proxy(None, port, None, None)


@posix
class TestCommand:
    @pytest.mark.parametrize("stream", [False, True])
    def test_sigterm_drains_and_exits_with_0(self, upstream, tmp_path, stream):
        release, asked = threading.Event(), threading.Event()

        async def hold(seen, line):
            asked.set()
            while not release.is_set():
                await asyncio.sleep(0.01)
            await upstream.answer(seen, line)

        upstream.script = hold
        with Command(write(tmp_path, upstream), "--port", 0) as command:
            proxy, answers = proxy_at(command.port()), []
            thread = threading.Thread(target=lambda: answers.append(proxy.chat(key=FILM, stream=stream)))
            thread.start()
            assert asked.wait(PATIENCE)
            command.process.send_signal(signal.SIGTERM)
            command.process.send_signal(signal.SIGTERM)
            wait_until(lambda: refused(proxy.port), "the end of accepting")
            release.set()
            thread.join(PATIENCE)

            assert (200, upstream.said) == (answers[0].status, answers[0].text)
            assert 0 == command.process.wait(PATIENCE)

        assert "/chat/completions 200 tenant=film" in command.text
        assert "library" not in command.text

    def test_what_does_not_end_in_time_is_ended(self, upstream, tmp_path):
        asked = threading.Event()

        async def hold(seen, line):
            asked.set()
            await line.gone()

        upstream.script = hold
        with Command(write(tmp_path, upstream), "--port", 0, "--grace", 1) as command:
            proxy = proxy_at(command.port())
            thread = threading.Thread(target=lambda: ignore(proxy.chat, key=FILM))
            thread.start()
            assert asked.wait(PATIENCE)
            assert 0 == command.end()
            thread.join(PATIENCE)

        wait_until(lambda: upstream.ended == 1)
        assert "Traceback" not in command.text

    def test_sighup_reloads(self, upstream, tmp_path):
        with Command(write(tmp_path, upstream), "--port", 0) as command:
            proxy = proxy_at(command.port())
            (tmp_path / "strict.yaml").write_text(config_text("strict", "zorkblat"))
            command.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "reloaded" in command.text)

            assert "pass" == proxy.chat("film-word", key=FILM).headers["x-cosa-act"]
            assert 0 == command.end()

    def test_several_workers_serve_reload_are_replaced_and_drain(self, upstream, tmp_path):
        with Command(write(tmp_path, upstream, metrics=True, audit={"folder": "audit"}), "--port", 0, "--workers", 2) as command:
            proxy = proxy_at(command.port())
            workers = set()
            wait_until(lambda: workers.add(worker_of(proxy)) or len(workers) == 2, "both workers")
            state = proxy.ask("/v1/responses", {"input": "Hello", "previous_response_id": "resp_1"}, key=FILM)
            command.process.send_signal(signal.SIGHUP)
            wait_until(lambda: command.text.count("reloaded") == 2)
            os.kill(int(workers.pop()), signal.SIGKILL)
            wait_until(lambda: "starting another" in command.text)
            ended = set(workers)
            wait_until(lambda: ended.add(ignore(worker_of, proxy)) or len(ended - {None}) == 2, "the new worker")

            assert (400, "previous_response_unavailable") == (state.status, state.code)
            assert 0 == command.end()

        assert 3 == len([path for path in (tmp_path / "audit").iterdir() if re.fullmatch(r"[^.]+\.jsonl", path.name) and path.name != "manifest.jsonl"])

    def test_workers_end_when_their_supervisor_is_killed(self, upstream, tmp_path):
        with Command(write(tmp_path, upstream), "--port", 0, "--workers", 2) as command:
            port = command.port()
            command.process.kill()
            wait_until(lambda: refused(port), "the end of the workers")

    @pytest.mark.parametrize("change", [{"upstreams": []}, {"nothing": 1}])
    def test_a_file_that_is_not_valid_exits_with_2_and_says_where(self, upstream, tmp_path, change):
        path = write(tmp_path, upstream, **change)
        with Command(path, "--port", 0) as command:
            assert 2 == command.process.wait(PATIENCE)
            wait_until(lambda: "serve.yaml" in command.text)

    def test_one_tenant_without_a_file(self, upstream, tmp_path):
        write(tmp_path, upstream)
        arguments = ["--config", tmp_path / "strict.yaml", "--upstream", upstream.url, "--port", 0, "--judge", "rules"]
        with Command(*arguments) as command:
            proxy = proxy_at(command.port())
            key = command.process.stdout.readline().strip()

            assert 200 == proxy.chat(key=key).status
            assert ["big-7b"] == [model["id"] for model in proxy.ask("/v1/models", key=key, method="GET").json["data"]]
            assert 401 == proxy.chat(key=FILM).status
            assert key not in command.text

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("shared", [False, True])
    def test_a_port_that_is_taken_exits_with_2(self, upstream, tmp_path, workers, shared):
        """Also by another proxy with several workers: the system would give half of the requests to each."""
        with socket.socket() as other:
            if shared:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            with Command(write(tmp_path, upstream), "--port", other.getsockname()[1], "--workers", workers) as command:
                assert 2 == command.process.wait(PATIENCE)
                wait_until(lambda: "choose another --port" in command.text)


def worker_of(proxy):
    proxy.chat(key=FILM)
    return re.search(r'worker="(\d+)"', proxy.ask("/metrics", method="GET").body.decode())[1]


def refused(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).close()
    except OSError:
        return True
    return False


def ignore(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except (OSError, HTTPException, AttributeError, TypeError):
        return None


def test_readiness_says_that_it_drains(upstream, tmp_path):
    with serving(write(tmp_path, upstream)) as proxy:
        proxy.app.drain()
        answer = proxy.ask("/readyz", method="GET")

    assert (503, {"status": "draining"}) == (answer.status, answer.json)


def test_readiness_asks_an_upstream_once_for_all_who_ask(upstream, tmp_path, monkeypatch):
    asked, go_on = [], asyncio.Event()

    async def reachable(settings):
        asked.append(settings.name)
        await go_on.wait()
        return True

    monkeypatch.setattr(app_module, "reachable", reachable)
    statuses = []
    with serving(write(tmp_path, upstream)) as proxy:
        threads = [threading.Thread(target=lambda: statuses.append(proxy.ask("/readyz", method="GET").status)) for _ in range(5)]
        for thread in threads:
            thread.start()
        lines = proxy.server.server_state.connections
        wait_until(lambda: len(asked) == 2 and sum(line.cycle is not None for line in [*lines]) == 5, "five who wait")
        proxy.loop.call_soon_threadsafe(go_on.set)
        for thread in threads:
            thread.join(PATIENCE)

    assert ([200] * 5, ["main", "claude"]) == (statuses, asked)


def test_a_key_is_printed_once_and_its_hash_opens(upstream, tmp_path):
    made = subprocess.run(
        [sys.executable, "-m", "cosa_guard.cli", "serve", "keys", "new", "film", "--json"], capture_output=True, text=True, check=True, timeout=PATIENCE
    )  # fmt: skip
    said = json.loads(made.stdout)
    with serving(write(tmp_path, upstream, tenants=[film(keys=[said["hash"]])])) as proxy:
        assert 200 == proxy.chat(key=said["key"]).status

    assert hashed(said["key"]) == said["hash"]
    assert said["key"] not in (tmp_path / "serve.yaml").read_text()
    assert CLINIC not in said["key"]


def test_the_file_may_be_json(upstream, tmp_path):
    file = yaml.safe_load(write(tmp_path, upstream).read_text())
    path = tmp_path / "serve.json"
    path.write_text(json.dumps(file))
    with serving(path) as proxy:
        assert 200 == proxy.chat(key=FILM).status
