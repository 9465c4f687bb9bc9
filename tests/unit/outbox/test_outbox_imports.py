"""`relay.outbox` costs an order service nothing heavier than the OpenTelemetry API."""

import subprocess
import sys

GUARD = """
import importlib.abc, sys

class Guard(importlib.abc.MetaPathFinder):
    allowed = set(sys.stdlib_module_names) | {"relay", "opentelemetry", "typing_extensions"}

    def find_spec(self, name, path=None, target=None):
        heavy = name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "relay.embedded"))
        if heavy or name.partition(".")[0] not in self.allowed:
            raise ImportError("not in an order service: " + name)
        return None

sys.meta_path.insert(0, Guard())
import relay.outbox
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_outbox_imports_with_nothing_but_the_opentelemetry_api() -> None:
    done = run(GUARD)
    assert done.returncode == 0, done.stderr


def test_the_guard_would_notice() -> None:
    done = run(GUARD + "import asyncpg")
    assert done.returncode != 0
    assert "not in an order service: asyncpg" in done.stderr


def test_schemas_are_compiled_at_the_first_event_not_at_import() -> None:
    done = run("import sys, relay.outbox; sys.exit('jsonschema_rs' in sys.modules)")
    assert done.returncode == 0


def test_sqlalchemys_synchronous_forms_do_without_greenlet() -> None:
    done = run("import sys; sys.modules['greenlet'] = None; import relay.outbox.sqlalchemy")
    assert done.returncode == 0, done.stderr


def test_the_test_kit_needs_no_driver() -> None:
    done = run(GUARD + "import relay.outbox.testing")
    assert done.returncode == 0, done.stderr
