"""Setup: the committed lock installs from any mirror, and says what pyproject.toml asks for."""

import re
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LOCK = (CHECKOUT / "uv.lock").read_text("utf-8")

_SPEC = spec_from_file_location("offline_lock", CHECKOUT / "tools/offline_lock.py")
assert _SPEC is not None
assert _SPEC.loader is not None
offline_lock = module_from_spec(_SPEC)
_SPEC.loader.exec_module(offline_lock)

AS_UV_WRITES_IT = """\
version = 1

[[package]]
name = "one"
version = "1.0+local"
source = { registry = "https://index.example/simple" }
sdist = { url = "https://files.example/one-1.0.tar.gz", hash = "sha256:aa", size = 1 }
wheels = [
    { url = "https://files.example/a/one-1.0%2Blocal-py3-none-any.whl", hash = "sha256:bb", \
size = 2, upload-time = "2026-01-01T00:00:00Z" },
]
"""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", text)[0].lower() for text in requirements}


def test_the_lock_names_no_registry() -> None:
    assert "://" not in LOCK
    sources = set(re.findall(r"^source = .*$", LOCK, re.MULTILINE))
    assert sources == {'source = { registry = ".wheels" }', 'source = { editable = "." }'}


def test_everything_locked_is_a_wheel_with_its_hash() -> None:
    packages = [p for p in tomllib.loads(LOCK)["package"] if "registry" in p["source"]]
    assert len(packages) > 50
    for package in packages:
        assert "sdist" not in package
        for wheel in package["wheels"]:
            assert wheel["path"].endswith(".whl")
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", wheel["hash"])


def test_the_lock_was_made_from_this_pyproject() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    (own,) = [p for p in tomllib.loads(LOCK)["package"] if p["name"] == "outbox-relay"]
    asked = names(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        asked |= names(extra)
    locked = {entry["name"] for entry in own["metadata"]["requires-dist"]}
    assert asked | {"outbox-relay"} == locked | {"outbox-relay"}
    locked_dev = {entry["name"] for entry in own["metadata"]["requires-dev"]["dev"]}
    assert names(project["dependency-groups"]["dev"]) == locked_dev


def test_rewriting_takes_the_addresses_out_and_leaves_the_hashes() -> None:
    rewritten = offline_lock.without_registries(AS_UV_WRITES_IT)
    assert "://" not in rewritten
    (package,) = tomllib.loads(rewritten)["package"]
    assert package["source"] == {"registry": ".wheels"}
    assert package["wheels"] == [
        {"path": "one-1.0+local-py3-none-any.whl", "hash": "sha256:bb", "size": 2}
    ]
    assert offline_lock.without_registries(rewritten) == rewritten


def test_a_package_without_a_wheel_is_refused() -> None:
    only_source = re.sub(r"wheels = \[.*?\n\]\n", "", AS_UV_WRITES_IT, flags=re.DOTALL)
    with pytest.raises(offline_lock.LockError, match='no wheel for name = "one"'):
        offline_lock.without_registries(only_source)


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(offline_lock.LockError, match="address is left"):
        offline_lock.without_registries(AS_UV_WRITES_IT + 'other = "git+https://example/x"\n')
